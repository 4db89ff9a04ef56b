"""LlamaIndex: the service as an embedding model of an index."""

import os

from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

model = OpenAILikeEmbedding(
    model_name="current",
    api_base=os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002") + "/v1",
    api_key=os.environ.get("PAIRWRIGHT_API_KEY", "none"),
)
texts = ["A dog is running on the grass.", "The stock market fell.", "A woman cooks soup."]
index = VectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=model)
for node in index.as_retriever(similarity_top_k=2).retrieve("a dog runs"):
    print(f"{node.score:.3f} {node.text}")
