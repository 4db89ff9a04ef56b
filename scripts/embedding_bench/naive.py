"""What one writes first: an endpoint that calls `encode`. `python -m scripts.embedding_bench.naive MODEL PORT`."""

import sys
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI
from sentence_transformers import SentenceTransformer

app, model = FastAPI(), SentenceTransformer(sys.argv[1], device="cpu")


@app.get("/health")
def _health() -> str:
    return "ok"


@app.post("/embed")
def _embed(inputs: Annotated[list[str], Body(embed=True)]) -> list[list[float]]:
    vectors: list[list[float]] = model.encode(inputs, normalize_embeddings=True).tolist()
    return vectors


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
