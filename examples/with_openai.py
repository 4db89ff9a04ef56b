"""OpenAI's own client. `model` is `current` or a version's id; the key, one of PAIRWRIGHT_API_KEYS if there are any."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002") + "/v1",
    api_key=os.environ.get("PAIRWRIGHT_API_KEY", "none"),
)
answer = client.embeddings.create(model="current", input=["A dog runs.", "Stocks fell."])
print(answer.model, [len(one.embedding) for one in answer.data])
print([model.id for model in client.models.list()])
