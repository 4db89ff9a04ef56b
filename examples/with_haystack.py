"""Haystack: documents and queries embedded by the service, in a document store."""

import os

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

service = {
    "model": "current",
    "api_base_url": os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002") + "/v1",
    "api_key": Secret.from_token(os.environ.get("PAIRWRIGHT_API_KEY", "none")),
}
store = InMemoryDocumentStore(embedding_similarity_function="cosine")
texts = ["A dog is running on the grass.", "The stock market fell.", "A woman cooks soup."]
embedder = OpenAIDocumentEmbedder(**service, progress_bar=False)
store.write_documents(embedder.run([Document(content=text) for text in texts])["documents"])
query = OpenAITextEmbedder(**service).run("a dog runs")["embedding"]
for document in InMemoryEmbeddingRetriever(store, top_k=2).run(query)["documents"]:
    print(f"{document.score:.3f} {document.content}")
