"""`embed`: the teacher embeddings of a corpus, by a pool of teachers on Ray. What is written follows from the inputs.

    run.json                      what it was begun with
    work/texts/000000.parquet     the texts, each once, in their files' order
    vectors/000000.parquet        a shard of them with their vectors, see `embedding_shards`

A file appears whole or not at all: the same command goes on from what is there, and any number of processes write the
same files.
"""

import json
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from services.trainer.distillation.embedding_shards import MANIFEST, VECTORS, read_shard, write_shard
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.students import locate
from shared import teacher
from shared.documents import passage_content
from shared.errors import Fatal, first_line
from shared.folder import Folder, Lines, counted
from shared.known_texts import KnownTexts
from shared.ray_cluster import AGAIN, call_each, connected, pool_for
from shared.settings import Settings
from shared.tables import TEXT, BadRow, Row, by_folded_name, find, missing, place, read, text_of

RUN_FILE, TEXTS_FILE = "run.json", "work/texts.json"
COLUMNS = (TEXT, "passage", "sentence", "sentence1")
TITLE = "title"


@dataclass(frozen=True)
class EmbedOptions:
    """What `embed` was asked for."""

    address: str
    inputs: Path
    """A file or a folder of files."""
    out: str
    columns: tuple[str, ...] = ()
    """Each is a text of its own; left out, the first of `COLUMNS`."""
    shard_size: int = 1000
    actors: int | None = None
    cpus: int | None = None


def embed(options: EmbedOptions, common: Settings, on_progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write what is missing in the folder; the manifest. `on_progress` gets texts done and all. Raises `Fatal`."""
    folder = Folder(options.out)
    files = _files(options.inputs)
    sizes = [(file.name, file.stat().st_size) for file in files]
    header = {"teacher": common.teacher, "columns": options.columns, "shard": options.shard_size, "inputs": sizes}
    content = json.dumps(header).encode()
    try:
        if folder.read(RUN_FILE) not in (None, content):
            raise Fatal(f"--out: {folder.uri} was begun with another teacher or other inputs: give another --out")
        if (finished := folder.read(MANIFEST)) is not None:
            return dict(json.loads(finished))
        folder.write(RUN_FILE, content)
        with connected(options.address, "trainer"):
            texts = Lines(folder, "work/texts", options.shard_size)
            count = _number(_texts(files, options.columns), texts)
            rows = _write_all(options, common, texts, count, on_progress)
        shards = [{"file": _file(shard), "texts": number} for shard, number in enumerate(rows)]
        manifest = {"teacher": common.teacher, "texts": count, "shards": shards}
        folder.write(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        folder.remove("work")
        return manifest
    except OSError as error:
        raise Fatal(f"--out: {error.filename or folder.uri}: {error.strerror or first_line(error)}; {AGAIN}") from None


def _file(shard: int) -> str:
    return f"{VECTORS}/{shard:06}.parquet"


def _files(inputs: Path) -> list[Path]:
    """Raises `Fatal`."""
    files = sorted(file for file in inputs.rglob("*") if file.is_file()) if inputs.is_dir() else [inputs]
    if not files or not files[0].is_file():
        raise Fatal(f"--inputs: there is no file in {inputs}")
    return files


def _texts(files: Sequence[Path], columns: Sequence[str]) -> Iterator[str]:
    """Raises `Fatal` for a row without any."""
    for file in files:
        for number, row in read(file):
            try:
                if isinstance(row, BadRow):
                    raise row
                yield from _texts_of(row, columns)
            except BadRow as error:
                raise Fatal(f"--inputs: {file}, {place(file, number)}: {error}") from None


def _texts_of(row: Row, columns: Sequence[str]) -> Iterator[str]:
    values = by_folded_name(row)
    alternatives: list[tuple[str, ...]] = [(name,) for name in columns] or [COLUMNS]
    for names in alternatives:
        if (value := find(values, names)) is None:
            raise missing(row, names, "--column")
        text = text_of(value, names[0])
        yield text if columns else passage_content(str(find(values, (TITLE,)) or ""), text)


def _number(found: Iterator[str], texts: Lines) -> int:
    """Keep each text once, in shards; how many there are."""
    if (before := texts.folder.read(TEXTS_FILE)) is not None:
        return int(before)
    count, shard = 0, 0
    with KnownTexts() as known:
        new = (text for text in found if known.add(text))
        while lines := list(islice(new, texts.size)):
            texts.write(shard, lines)
            count, shard = count + len(lines), shard + 1
    if not count:
        raise Fatal("--inputs: holds no text")
    texts.folder.write(TEXTS_FILE, str(count).encode())
    return count


def _write_all(
    options: EmbedOptions, common: Settings, texts: Lines, count: int, on_progress: Callable[[int, int], None]
) -> list[int]:
    """The rows of each shard, when all are written. Raises `Fatal`."""
    lengths = [min(texts.size, count - first) for first in range(0, count, texts.size)]
    present = {shard for shard, rows in enumerate(lengths) if _is_written(texts.folder, shard, rows)}
    on_progress(sum(lengths[shard] for shard in present), count)
    absent = [shard for shard in range(len(lengths)) if shard not in present]
    pool = pool_for(options.actors, options.cpus, 1)
    passed_on = common.model_copy(update={"api_keys": SecretStr("")})
    arguments = (passed_on, texts, secrets.token_hex(4))
    for row in call_each(ShardEmbedder, arguments, [{"shard": shard} for shard in absent], pool):
        if row["problem"]:
            raise Fatal(f"--cluster: {row['problem']}; {AGAIN}")
        present.add(row["shard"])
        on_progress(sum(lengths[shard] for shard in present), count)
    return lengths


def _is_written(folder: Folder, shard: int, rows: int) -> bool:
    found = read_shard(folder, _file(shard))
    return found is not None and len(found.texts) == rows


class ShardEmbedder:
    """Called with a batch of one row, it writes that shard, and tells what a person can mend in `problem`.

    Ray tries a shard again and again while processes die, so they are counted, for each run of the command.
    """

    def __init__(self, common: Settings, texts: Lines, run: str) -> None:
        self._common, self._texts, self._run = common, texts, run
        self._encoder: PromptEOLEncoder | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        shard, problem = int(batch["shard"][0]), ""
        try:
            with counted(self._texts.folder, "work/tries", f"{shard:06}.{self._run}.", self._texts.file(shard)):
                self._write(shard)
        except Fatal as fatal:
            problem = str(fatal)
        except OSError as error:
            problem = f"{error.filename or self._texts.folder.uri}: {error.strerror or error} ({socket.gethostname()})"
        return {"shard": [shard], "problem": [problem]}

    def _write(self, shard: int) -> None:
        texts = self._texts.read(shard)
        if texts is None:
            where = self._texts.folder.place(self._texts.file(shard))
            raise Fatal(f"--out: {where} is torn, or another machine doesn't see it: name a folder that all share")
        if self._encoder is None:
            located = teacher.locate(self._common.teacher, self._common.cache_dir)
            self._encoder = PromptEOLEncoder(locate.teacher_folder(located))
        write_shard(self._texts.folder, _file(shard), texts, self._encoder.encode(texts))
