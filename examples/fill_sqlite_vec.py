"""A vector store in one SQLite file, filled through `/v1/embeddings`, and the version that its vectors are of."""

import os
import sqlite3
import sys

import sqlite_vec
from openai import OpenAI

TEXTS = ["A dog is running on the grass.", "The stock market fell.", "A woman cooks soup."]
client = OpenAI(base_url=os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002") + "/v1", api_key="none")
version = client.embeddings.create(model="current", input="which version?").model


def embed(texts: list[str]) -> list[bytes]:
    """Vectors of the version that the file is filled with, as the store keeps them."""
    answer = client.embeddings.create(model=version, input=texts)
    return [sqlite_vec.serialize_float32(one.embedding) for one in answer.data]


vectors = embed(TEXTS)
database = sqlite3.connect(sys.argv[1] if len(sys.argv) > 1 else ":memory:")
database.enable_load_extension(True)
sqlite_vec.load(database)
database.execute("CREATE TABLE made_by (version TEXT)")
database.execute("INSERT INTO made_by VALUES (?)", [version])
database.execute(f"CREATE VIRTUAL TABLE texts USING vec0(text TEXT, vector FLOAT[{len(vectors[0]) // 4}])")
database.executemany("INSERT INTO texts (text, vector) VALUES (?, ?)", zip(TEXTS, vectors, strict=True))
database.commit()
query = "SELECT text, distance FROM texts WHERE vector MATCH ? ORDER BY distance LIMIT 2"
for text, distance in database.execute(query, embed(["a dog runs"])):
    print(f"{distance:.3f} {text}")
