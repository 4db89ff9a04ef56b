"""Vectors with httpx, from text-embeddings-inference's route, and the version that made them."""

import os

import httpx

with httpx.Client(base_url=os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002"), timeout=30) as client:
    answer = client.post("/embed", json={"inputs": ["A dog runs.", "A dog is running.", "Stocks fell."]})
    if answer.status_code == 429:  # too much at once: the service says when to come again
        raise SystemExit(f"busy; try again in {answer.headers['retry-after']} s")
    answer.raise_for_status()
    one, two, three = answer.json()  # normalised, so a dot product is the cosine
    print(answer.headers["x-pairwright-version"])
    print(round(sum(a * b for a, b in zip(one, two, strict=True)), 3))
    print(round(sum(a * b for a, b in zip(one, three, strict=True)), 3))
