"""What one writes first: an endpoint that calls `encode`. `python -m scripts.embedding_bench.naive MODEL PORT`."""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Body(BaseModel):
    """Texts."""

    inputs: list[str]


def build(folder: str) -> FastAPI:
    """The app."""
    app, model = FastAPI(), SentenceTransformer(folder, device="cpu")

    @app.get("/health")
    def _health() -> str:
        return "ok"

    @app.post("/embed")
    def _embed(body: Body) -> list[list[float]]:
        vectors: list[list[float]] = model.encode(body.inputs, normalize_embeddings=True).tolist()
        return vectors

    return app


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
