"""`python -m services.generation documents add`: files and folders into the stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.generation.documents.cutting import Cutter, load_tokenizer
from services.generation.documents.files import File, find_files, read_texts
from services.generation.documents.intake import Intake, offer
from services.generation.documents.options import DocumentOptions
from services.generation.documents.texts import Text
from services.generation.pairs.languages import teacher_languages
from services.generation.settings import GenerationSettings
from shared.documents import Document
from shared.errors import Fatal, first_line
from shared.queue import open_queue
from shared.redis import command_client
from shared.settings import Settings
from shared.stream import PairStream
from shared.tables import BadRow
from shared.teacher import locate

PORTION = 1000
"""Passages that are offered at one time."""
WAITING = "the stream is full: waiting for the trainer (is it running?)"


async def add_documents(options: DocumentOptions, common: Settings, own: GenerationSettings) -> dict[str, Any]:
    """Read, cut and offer; what became of it. Raises `Fatal` in one line for whatever a person can mend."""
    files, others = find_files(options.paths)
    tokenizer = load_tokenizer(locate(common.teacher, common.cache_dir))
    intake = Intake(Cutter(tokenizer, options.size, options.overlap), options.window)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files, {task.fields[passages]} passages"))
    is_hidden = common.log_format != "human"
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=is_hidden) as bar:
        async with _stream(common, own, options.dry_run) as stream:
            adding = Adding(options, intake, stream, bar)
            task = bar.add_task("", total=len(files), passages=0)
            for file in files:
                await adding.add(file)
                bar.update(task, advance=1, passages=intake.counts.passages)
            await adding.flush()
    if not intake.counts.documents:
        raise Fatal(f"none of {len(files)} files holds a document; the first, {adding.first_bad or 'has no rows'}")
    warning = intake.warning(teacher_languages(own.teacher_languages, common.teacher), common.teacher)
    told = {"warnings": [warning] if warning else []} | ({"first_bad": adding.first_bad} if adding.first_bad else {})
    return intake.counts.summary() | {"files": len(files), "passed_over": dict(others)} | told


@contextlib.asynccontextmanager
async def _stream(common: Settings, own: GenerationSettings, dry_run: bool) -> AsyncIterator[PairStream | None]:
    """The dataset's stream; none in a dry run."""
    if dry_run:
        yield None
        return
    with open_queue(common.redis_url, common.queue_dir) as url:
        redis = command_client(url)
        try:
            yield PairStream(redis, common.dataset, own.max_backlog)
        except (RedisError, OSError) as error:
            hint = "the same command goes on where it stopped"
            raise Fatal(f"PAIRWRIGHT_REDIS_URL: Redis doesn't answer ({first_line(error)}); {hint}") from None
        finally:
            await redis.aclose()


class Adding:
    """One run of the command."""

    def __init__(self, options: DocumentOptions, intake: Intake, stream: PairStream | None, bar: Progress) -> None:
        self._options, self._intake, self._stream, self._bar = options, intake, stream, bar
        self._waiting: list[Document] = []
        self._bad: str | None = None
        self._is_told = False
        self.first_bad = ""

    async def add(self, file: File) -> None:
        """Take a file's documents. Raises `Fatal` for the first bad one, unless they are to be passed over."""
        texts = read_texts(file, self._options.column, self._options.encoding)
        while await asyncio.to_thread(self._take, texts):
            await self.flush()
        if self._bad is not None:
            await self.flush()
            raise Fatal(f"{self._bad}. What came before it is added; mend it and add all again, or --skip-bad")

    def _take(self, texts: Iterator[tuple[str, Text | BadRow]]) -> bool:
        """Take documents until there are enough to offer; False at the end of the file, and at a bad one."""
        passages = sum(len(one.passages) for one in self._waiting)
        try:
            for place, text in texts:
                try:
                    if isinstance(text, BadRow):
                        raise text
                    document = self._intake.take(text)
                except BadRow as error:
                    if self._is_an_end(f"{place}: {error}"):
                        return False
                    continue
                if document is not None:
                    self._waiting.append(document)
                    passages += len(document.passages)
                if passages >= PORTION:
                    return True
        except Fatal as fatal:  # of this file; others may be sound
            self._is_an_end(str(fatal))
        return False

    def _is_an_end(self, bad: str) -> bool:
        self._intake.counts.bad += 1
        self.first_bad = self.first_bad or bad
        if not self._options.skip_bad:
            self._bad = bad
        return self._bad is not None

    async def flush(self) -> None:
        """Offer what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._stream is not None:
            await offer(self._stream, waiting, self._intake.counts, None, self._tell)

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._bar.console.print(WAITING)
