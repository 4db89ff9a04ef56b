"""The process on a cluster's machine that holds one engine and writes shards of work items with it. Knows no Ray."""

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from services.generation.decoding.base import Engine
from services.generation.decoding.factory import make_engine, start_engine
from services.generation.jobs.ordered_writer import OrderedWriter
from services.generation.pairs.corpus import Corpus
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import MAX_INPUTS, InvalidPlan, ResolvedPlan
from services.generation.pairs.work_item import WorkItem
from services.generation.settings import GenerationSettings
from shared.errors import Fatal, first_line
from shared.folder import Folder, Lines, counted
from shared.process import configure_logging
from shared.settings import Settings

CORPUS_SIZE = MAX_INPUTS
"""Passages are searched in groups of so many, in their order: a process holds one group's index."""
TRIES, WAIT_S = 3, 2.0
"""How often a shard is read where the disk says no, and how long to wait in between."""
RUN_FILE = "run.json"

item_json = TypeAdapter(WorkItem)


@dataclass(frozen=True)
class Run:
    """What all processes of a run share; pickled."""

    folder: Folder
    header: bytes
    """What `RUN_FILE` holds; a machine that sees another one doesn't share the folder."""
    plan: ResolvedPlan
    """Without inputs: items carry theirs."""
    common: Settings
    own: GenerationSettings
    inputs: int
    """How many given sentences or passages there are; 0 where the teacher writes them."""
    shard_size: int
    driver: str = field(default_factory=lambda: secrets.token_hex(4))
    """Names this run of the command."""

    def given(self) -> Lines:
        """Given sentences or passages."""
        return Lines(self.folder, "work/inputs", self.shard_size)

    def items(self, pass_number: int) -> Lines:
        """Work items of a pass, as JSON."""
        return Lines(self.folder, f"work/items-{pass_number:02}", self.shard_size)

    def results(self, pass_number: int) -> Lines:
        """Their results, as JSON."""
        return Lines(self.folder, f"work/results-{pass_number:02}", self.shard_size)


@dataclass
class _Shard:
    """Some work items, numbered from 0 here; see `jobs.ordered_writer.Items`."""

    items: Sequence[WorkItem]
    recorded: int = 0
    results: list[str] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return len(self.items)

    def work_item(self, index: int) -> WorkItem:
        return self.items[index]


class ShardWriter:
    """Called with a batch of one row, it writes a shard and says how that went, from several threads at one time.

    Where this machine can't write, its disk being full, the row has the shard's results as `lines`. Whatever else can
    be mended is told in the row's `problem`, `fatal` if another try is no use; a dead engine ends the process, and Ray
    starts another one in its place.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="engine").start()
        self._starting, self._indexing = asyncio.Lock(), asyncio.Lock()
        self._engine: Engine | None = None
        self._jobs: dict[int, Job] = {}

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        pass_number, shard = int(batch["pass_number"][0]), int(batch["shard"][0])
        row = {"shard": shard, "samples": 0, "began": 0.0, "ended": 0.0, "problem": "", "fatal": False}
        row["lines"] = []
        row |= asyncio.run_coroutine_threadsafe(self._write_or_say(pass_number, shard), self._loop).result()
        return {name: [value] for name, value in row.items()}

    async def _write_or_say(self, pass_number: int, shard: int) -> dict[str, Any]:
        for attempt in range(1, TRIES + 1):
            try:
                with self._counted(pass_number, shard):
                    return await self._write(pass_number, shard)
            except OSError as error:
                problem = self._problem(error)
                await asyncio.sleep(WAIT_S * attempt)
            except InvalidPlan as error:
                return {"problem": f"--{error.field.replace('_', '-')}: {error.message}", "fatal": True}
            except Fatal as fatal:
                return {"problem": str(fatal), "fatal": True}
            except BaseExceptionGroup:
                if self._engine is not None and self._engine.state != "ok":
                    os._exit(1)  # without a word: the mark stays
                raise
        return {"problem": problem}

    def _problem(self, error: OSError) -> str:
        why = f"{error.strerror or first_line(error)}: {error.filename or self._run.folder.uri}"
        return f"{why} (machine {socket.gethostname()}, process {os.getpid()})"

    def _counted(self, pass_number: int, shard: int) -> contextlib.AbstractContextManager[None]:
        prefix, items = f"{shard:06}.{self._run.driver}.", self._run.items(pass_number).file(shard)
        return counted(self._run.folder, f"work/tries-{pass_number:02}", prefix, items)

    async def _write(self, pass_number: int, shard: int) -> dict[str, Any]:
        lines = await asyncio.to_thread(self._run.items(pass_number).read, shard)
        if lines is None:
            await asyncio.to_thread(self._check_folder)
            raise FileNotFoundError(f"{self._run.items(pass_number).file(shard)} is missing or torn")
        generator = await self._generator()
        items = [item_json.validate_json(line) for line in lines]
        groups = sorted({self._group(item) for item in items})
        part, began = _Shard(items), time.time()
        samples = 0
        for group in groups:  # in one group but at its edge
            some = _Shard([item for item in items if self._group(item) == group])
            samples += await self._write_group(generator, await self._job(group), some)
            part.results += some.results
        row: dict[str, Any] = {"samples": samples, "began": began, "ended": time.time()}
        try:
            await asyncio.to_thread(self._run.results(pass_number).write, shard, part.results)
        except OSError as error:
            row["problem"] = self._problem(error)
            row["lines"] = part.results
        return row

    async def _write_group(self, generator: PairGenerator, job: Job, part: _Shard) -> int:
        writer, samples = OrderedWriter(generator, job, part), 0
        try:
            while part.recorded < part.total:
                for result in await writer.take(part.total):
                    few = result.with_few_texts(part.rejected)
                    part.rejected.update(few.rejected)
                    part.results.append(few.to_json())
                    part.recorded += 1
                    samples += few.samples
        finally:
            await writer.stop()
        return samples

    async def _generator(self) -> PairGenerator:
        """Around the engine, which the first shard starts. Raises `Fatal`, and `InvalidPlan`."""
        async with self._starting:
            if self._engine is None:
                configure_logging("WARNING", self._run.common.log_format, "generation")
                engine = await make_engine(self._run.common, self._run.own)
                await start_engine(engine)
                PairGenerator(engine).check_form(self._run.plan)
                self._engine = engine
        return PairGenerator(self._engine)

    def _group(self, item: WorkItem) -> int:
        if not self._run.plan.task.writes_queries:
            return 0
        return item.number % max(1, self._run.inputs) // CORPUS_SIZE

    async def _job(self, group: int) -> Job:
        """With the index of a group of passages, if queries are written; that of one group is kept."""
        async with self._indexing:
            if group not in self._jobs:
                self._jobs.clear()
                corpus = await asyncio.to_thread(self._corpus, group) if self._run.plan.task.writes_queries else None
                teacher, dataset = self._run.common.teacher, self._run.common.dataset
                self._jobs[group] = Job(self._run.plan, dataset=dataset, teacher=teacher, corpus=corpus)
            return self._jobs[group]

    def _corpus(self, group: int) -> Corpus:
        first = group * CORPUS_SIZE
        return Corpus(list(self._run.given().between(first, min(first + CORPUS_SIZE, self._run.inputs))))

    def _check_folder(self) -> None:
        if self._run.folder.read(RUN_FILE) != self._run.header:
            where = self._run.folder.uri
            raise Fatal(f"--out: {where}: another machine doesn't see it; name a folder that all machines share")
