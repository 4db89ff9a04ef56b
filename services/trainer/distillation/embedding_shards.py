"""Teacher embeddings of a corpus in Parquet files, as `embed` leaves them, and the nearest of its passages to queries.

    vectors/000000.parquet   text, and vector: float16 [hidden]
    manifest.json            the teacher, and the files with their rows; written last

One file is in memory at a time. Neighbours are FAISS': exact inner products in each file, the best of all files kept.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from services.trainer.models.static import Embeddings
from shared.errors import Fatal, first_line
from shared.folder import Folder

MANIFEST, VECTORS = "manifest.json", "vectors"
SETTING = "PAIRWRIGHT_TRAINER_EMBEDDINGS"


@dataclass(frozen=True)
class Shard:
    """Some texts and their teacher embeddings."""

    texts: list[str]
    vectors: npt.NDArray[np.float16]
    """[texts, hidden]"""


@dataclass(frozen=True)
class EmbeddingShards:
    """A finished folder."""

    folder: Folder
    files: dict[str, int]
    """With their rows."""

    def shards(self) -> Iterator[Shard]:
        """One after the other. Raises `Fatal`."""
        for name, rows in self.files.items():
            shard = read_shard(self.folder, name)
            if shard is None or len(shard.texts) != rows:
                raise Fatal(f"{SETTING}: {self.folder.place(name)} is missing or torn")
            yield shard

    def find(self, texts: Collection[str]) -> dict[str, npt.NDArray[np.float16]]:
        """Those of these texts that are there, with their vectors."""
        wanted = set(texts)
        return {
            text: shard.vectors[place].copy()
            for shard in self.shards()
            for place, text in enumerate(shard.texts)
            if text in wanted
        }

    def nearest(self, queries: Embeddings, most: int, left_out: Collection[bytes], digest: Any) -> list[str]:
        """The passages among the nearest `most` of any query [queries, hidden], but for those whose digest is left out.

        Cosines count from the mean of the first file's vectors: all teacher embeddings have much in common.
        """
        try:
            import faiss
        except ImportError:
            advice = ".venv/bin/python -m pip install -c constraints.txt '.[cluster]'"
            raise Fatal(f"{SETTING}: needs the extra `cluster`: {advice}") from None
        centre: Any = None
        heap = faiss.ResultHeap(len(queries), most, keep_max=True)
        first, kept = 0, dict[int, str]()
        for shard in self.shards():
            places = [place for place, text in enumerate(shard.texts) if digest(text) not in left_out]
            vectors = shard.vectors[places].astype(np.float32)
            if not len(vectors):
                continue
            if centre is None:
                centre = vectors.mean(axis=0)
                asked = _unit(queries - centre)
            found, numbers = faiss.knn(
                asked, _unit(vectors - centre), min(most, len(vectors)), faiss.METRIC_INNER_PRODUCT
            )
            heap.add_result(found, numbers + first)
            kept |= {first + int(place): shard.texts[places[place]] for place in np.unique(numbers)}
            still = set(np.unique(heap.I).tolist())
            kept = {number: text for number, text in kept.items() if number in still}
            first += len(places)
        return [kept[number] for number in sorted(kept)]


def _unit(vectors: Any) -> Any:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def opened(uri: str, teacher: str) -> EmbeddingShards:
    """A finished folder of this teacher's embeddings. Raises `Fatal`."""
    folder = Folder(uri)
    content = folder.read(MANIFEST)
    if content is None:
        raise Fatal(f"{SETTING}: {folder.uri} holds no {MANIFEST}: the same `embed` goes on with it")
    try:
        manifest = json.loads(content)
        other, files = manifest["teacher"], {shard["file"]: int(shard["texts"]) for shard in manifest["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Fatal(f"{SETTING}: {folder.place(MANIFEST)} is no manifest of embeddings: {first_line(error)}") from None
    if other != teacher:
        raise Fatal(f"{SETTING}: {folder.uri} is of the teacher {other}, and PAIRWRIGHT_TEACHER is {teacher}")
    return EmbeddingShards(folder, files)


def write_shard(folder: Folder, name: str, texts: Sequence[str], vectors: Embeddings) -> None:
    """Keep a shard, [texts, hidden]. Raises OSError."""
    flat = pa.array(vectors.astype(np.float16).ravel(), pa.float16())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"text": pa.array(texts, pa.string()), "vector": column}), sink, compression="zstd")
    folder.write(name, sink.getvalue().to_pybytes())


def read_shard(folder: Folder, name: str) -> Shard | None:
    """A shard; None if it is missing or torn."""
    content = folder.read(name)
    if content is None:
        return None
    try:
        table = parquet.read_table(pa.BufferReader(content))
    except pa.ArrowException:
        return None
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    return Shard(table["text"].to_pylist(), flat.reshape(table.num_rows, -1).astype(np.float16))
