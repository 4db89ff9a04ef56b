"""Documents and queries for their passages, as the stream carries them."""

import asyncio

from shared.documents import Document, Passage, content_hash
from shared.pairs import Pair, PairRecord, Provenance
from shared.queue import EmbeddedServer
from shared.redis import reading_client
from shared.stream import PairStream


def make_document(id_: str, *texts: str, title: str = "", source: str = "notes.md") -> Document:
    """A document with a passage for each text."""
    passages, start = [], 0
    for text in texts:
        passages.append(Passage(title=title, text=text, start=start, end=start + len(text)))
        start += len(text) + 1
    hash_ = content_hash("\n".join(texts))
    return Document(id=id_, title=title, source=source, hash=hash_, passages=passages)


def retrieval(query: str, content: str) -> PairRecord:
    """A query that the teacher wrote for a passage."""
    origin = Provenance(dataset="default", task="retrieval", label="question", job="job", teacher="default", seed=1)
    return PairRecord(pair=Pair(sentence1=query, sentence2=content, score=1), provenance=origin)


def waiting_documents(server: EmbeddedServer, dataset: str, are_taken: bool = False) -> list[Document]:
    """The documents of the stream; with `are_taken` it is empty afterwards, as when a trainer has them."""

    async def _read() -> list[Document]:
        redis, documents = reading_client(server.url, 1), list[Document]()
        stream = PairStream(redis, dataset)
        while batch := await stream.read("test", block_ms=50):
            if are_taken:
                await stream.acknowledge(batch)
            documents += [one.document for one in batch if one.document]
        await redis.aclose()
        return documents

    return asyncio.run(_read())
