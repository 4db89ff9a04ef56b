"""Documents and queries for their passages, as the stream carries them."""

from shared.documents import Document, Passage, content_hash
from shared.pairs import Pair, PairRecord, Provenance


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
