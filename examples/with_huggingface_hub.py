"""Hugging Face's client: the service is an inference endpoint by its URL."""

import os

from huggingface_hub import InferenceClient

client = InferenceClient(os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002"))
print(client.feature_extraction("A dog runs.").shape)
print(client.sentence_similarity("A dog runs.", other_sentences=["A dog is running.", "Stocks fell."]))
