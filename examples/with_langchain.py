"""LangChain: the service as embeddings of a vector store."""

import os

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(
    model="current",
    base_url=os.environ.get("PAIRWRIGHT_URL", "http://localhost:8002") + "/v1",
    api_key=os.environ.get("PAIRWRIGHT_API_KEY", "none"),
    check_embedding_ctx_length=False,  # send text: token ids mean something else in each tokenizer
)
store = InMemoryVectorStore(embeddings)
store.add_texts(["A dog is running on the grass.", "The stock market fell.", "A woman cooks soup."])
for document, score in store.similarity_search_with_score("a dog runs", k=2):
    print(f"{score:.3f} {document.page_content}")
