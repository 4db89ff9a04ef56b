"""A vector store in one DuckDB file, filled through `/v1/embeddings`, with the version that its vectors are of."""

import os
import sys

import duckdb
from openai import OpenAI

TEXTS = ["A dog is running on the grass.", "The stock market fell.", "A woman cooks soup."]
client = OpenAI(
    base_url=os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002") + "/v1",
    api_key=os.environ.get("PAIRWRIGHT_API_KEY", "none"),
)
# A version's vectors fit no other's: ask for the same one ever after, or fill the store again.
version = client.embeddings.create(model="current", input="which version?").model


def embed(texts: list[str]) -> list[list[float]]:
    """Vectors of the version that the store is filled with."""
    return [one.embedding for one in client.embeddings.create(model=version, input=texts).data]


vectors = embed(TEXTS)
vector_type = f"FLOAT[{len(vectors[0])}]"
store = duckdb.connect(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
store.execute("CREATE TABLE made_by AS SELECT ? AS version", [version])
store.execute(f"CREATE TABLE texts (text TEXT, vector {vector_type})")
store.executemany("INSERT INTO texts VALUES (?, ?)", [list(row) for row in zip(TEXTS, vectors, strict=True)])
cosine = f"array_cosine_similarity(vector, ?::{vector_type})"
nearest = f"SELECT text, {cosine} AS cosine FROM texts ORDER BY cosine DESC LIMIT 2"
for text, similarity in store.execute(nearest, embed(["a dog runs"])).fetchall():
    print(f"{similarity:.3f} {text}")
