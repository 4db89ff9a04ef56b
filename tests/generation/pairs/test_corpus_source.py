"""The dataset's passages, read from a real trainer: up to the one that was the last when a job was made."""

import asyncio
from pathlib import Path

import httpx
import pytest

from services.generation.pairs import corpus_source
from services.generation.pairs.corpus_source import CorpusSource, NoCorpus
from services.generation.pairs.plan import InvalidPlan, Plan, ResolvedPlan
from services.generation.pairs.tasks import load_all_tasks
from shared.queue import EmbeddedServer
from tests.support.corpus import LiveCorpus
from tests.support.documents import make_document

DOCUMENTS = [make_document(str(n), f"Room {n} is upstairs.", f"Bath {n}.", title=f"House {n}") for n in range(4)]
CONTENTS = [passage.content for document in DOCUMENTS for passage in document.passages]


def plan(**fields: object) -> ResolvedPlan:
    return Plan.model_validate({"task": "retrieval", **fields}).resolve(load_all_tasks(None))


def test_a_job_sees_the_passages_that_were_there_when_it_was_made(
    server: EmbeddedServer, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_source, "PAGE", 3)
    trainer = LiveCorpus(tmp_path, server.url, dataset)
    source = CorpusSource(trainer.url)
    with pytest.raises(NoCorpus, match="PAIRWRIGHT_TRAINER_URL"):
        source.pin(plan(queries=3))
    with trainer.running():
        with pytest.raises(InvalidPlan, match="queries: the dataset has no passages; add documents first"):
            source.pin(plan(queries=3))
        trainer.add(DOCUMENTS)
        pinned = source.pin(plan(queries=3))
        trainer.add([*DOCUMENTS, make_document("later", "Garden.")])
        corpus = source.corpus(pinned)
        assert corpus is not None
        assert corpus.passages == CONTENTS
        assert source.corpus(pinned) is corpus
        later = source.corpus(source.pin(plan(queries=3)))
        assert later is not None
        assert later.passages == [*CONTENTS, "Garden."]

        # Of more than the index may hold, some are drawn; the others of them stay when one is deleted.
        monkeypatch.setattr(corpus_source, "MAX_PASSAGES", 5)
        few = CorpusSource(trainer.url).corpus(pinned)
        assert few is not None
        assert len(few.passages) == 5
        number = few.passages[2].split()[1]
        httpx.delete(f"{trainer.url}/documents", params={"id": number}).raise_for_status()
        fewer = CorpusSource(trainer.url).corpus(pinned)
        assert fewer is not None
        assert {text for text in few.passages if text.split()[1] != number} <= set(fewer.passages)
        for document in DOCUMENTS:
            httpx.delete(f"{trainer.url}/documents", params={"id": document.id}).raise_for_status()
        with pytest.raises(InvalidPlan, match="have been deleted"):
            CorpusSource(trainer.url).corpus(pinned)


def test_other_plans_ask_no_trainer() -> None:
    source = CorpusSource("http://127.0.0.1:9")
    given = plan(inputs=["One passage.", "Another one."])
    assert source.pin(given) is given
    corpus = source.corpus(given)
    assert corpus is not None
    assert corpus.passages == ["One passage.", "Another one."]
    assert source.corpus(Plan(num_inputs=3).resolve(load_all_tasks(None))) is None


def test_something_else_at_the_trainer_s_address_is_said() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def ask() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
            source = CorpusSource(f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
            with pytest.raises(NoCorpus, match="is no trainer of this version"):
                await asyncio.to_thread(source.pin, plan(queries=1))

    asyncio.run(ask())
