"""Teacher embeddings in files: the nearest passages over all of them, and what a round takes from there."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.trainer.dataset.arrow import portions
from services.trainer.distillation import embedding_cache
from services.trainer.distillation.embedding_shards import MANIFEST, EmbeddingShards, opened, write_shard
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Embeddings
from services.trainer.progress import Progress
from services.trainer.round import run_round
from services.trainer.settings import TrainerSettings
from services.trainer.training.queries import ROWS as ROWS_FILE
from services.trainer.training.retrieval import prepared
from services.trainer.training.split import digest
from shared.errors import Fatal
from shared.folder import Folder
from tests.support.documents import make_document, retrieval
from tests.support.pairs import NOUNS, SYNONYMS, plan
from tests.support.students import write_teacher
from tests.support.trainer_homes import Home

HIDDEN, ROWS = 12, 20


def written(folder: Path, shards: int, seed: int = 5) -> tuple[list[str], Embeddings]:
    """A finished folder of random vectors around a common mean; all texts and vectors."""
    random = np.random.default_rng(seed)
    vectors = (random.standard_normal((shards * ROWS, HIDDEN)) + 8).astype(np.float16)
    texts = [f"passage {number}" for number in range(len(vectors))]
    names = [f"vectors/{shard:06}.parquet" for shard in range(shards)]
    for shard, name in enumerate(names):
        rows = slice(shard * ROWS, (shard + 1) * ROWS)
        write_shard(Folder(str(folder)), name, texts[rows], vectors[rows].astype(np.float32))
    manifest = {"teacher": "default", "shards": [{"file": name, "texts": ROWS} for name in names]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return texts, vectors.astype(np.float32)


def test_the_nearest_over_all_files_are_those_of_one_search(tmp_path: Path) -> None:
    texts, vectors = written(tmp_path, shards=4)
    queries = vectors[[3, 33, 70]] + np.float32(0.05)
    left_out = {digest(texts[33]), digest(texts[4])}
    found = opened(str(tmp_path), "default").nearest(queries, 5, left_out, digest)
    kept = [place for place, text in enumerate(texts) if digest(text) not in left_out]
    centre = vectors[[place for place in kept if place < ROWS]].mean(axis=0)
    unit = [(rows - centre) / np.linalg.norm(rows - centre, axis=1, keepdims=True) for rows in (queries, vectors[kept])]
    best = np.argsort(-(unit[0] @ unit[1].T), axis=1)[:, :5]
    assert found == [texts[kept[place]] for place in sorted(set(best.ravel().tolist()))]
    assert texts[3] in found
    assert texts[70] in found
    # More than there are: all of them.
    assert opened(str(tmp_path), "default").nearest(queries, 500, left_out, digest) == [texts[place] for place in kept]


def test_what_was_embedded_elsewhere_is_not_embedded_again(tmp_path: Path) -> None:
    texts, vectors = written(tmp_path, shards=2)
    asked, embedded = [*texts[:3], "a new one", texts[35]], list[str]()

    def encode(some: Sequence[str]) -> Embeddings:
        embedded.extend(some)
        return np.ones((1, HIDDEN), np.float32)

    file, find = tmp_path / "cache.npz", opened(str(tmp_path), "default").find
    got = embedding_cache.encode_cached(asked, file, lambda: encode, lambda _: None, find)
    assert embedded == ["a new one"]
    np.testing.assert_array_equal(got[[0, 1, 2, 4]], vectors[[0, 1, 2, 35]])
    again = embedding_cache.encode_cached(asked, file, lambda: encode, lambda _: None)
    np.testing.assert_array_equal(again, got)
    assert embedded == ["a new one"]


def test_a_folder_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    written(tmp_path, shards=1)

    def problem(teacher: str = "default") -> str:
        with pytest.raises(Fatal, match=r"^PAIRWRIGHT_TRAINER_EMBEDDINGS: ") as raised:
            list(opened(str(tmp_path), teacher).shards())
        return str(raised.value)

    assert "is of the teacher default, and PAIRWRIGHT_TEACHER is other" in problem("other")
    file = tmp_path / "vectors" / "000000.parquet"
    file.write_bytes(file.read_bytes()[:100])
    assert "000000.parquet is missing or torn" in problem()
    (tmp_path / MANIFEST).write_text("{}")
    assert "is no manifest of embeddings" in problem()
    (tmp_path / MANIFEST).unlink()
    assert "holds no manifest.json: the same `embed` goes on with it" in problem()


def test_a_shard_keeps_float16_as_it_is(tmp_path: Path) -> None:
    texts, vectors = written(tmp_path, shards=1)
    (shard,) = EmbeddingShards(Folder(str(tmp_path)), {"vectors/000000.parquet": ROWS}).shards()
    assert shard.texts == texts
    assert shard.vectors.dtype == np.float16
    np.testing.assert_array_equal(shard.vectors, vectors)


@pytest.mark.slow
def test_a_round_looks_for_negatives_in_all_files_and_not_among_what_is_held_out(
    home: Home, plain_encoder: Path, tmp_path: Path
) -> None:
    teacher, folder = tmp_path / "teacher", tmp_path / "embeddings"
    write_teacher(teacher, tied=True, layers=5)
    nouns = list(itertools.combinations(NOUNS[:20], 2))
    passages = [f"the {SYNONYMS[one]} near a {SYNONYMS[other]}" for one, other in nouns]
    elsewhere = [f"the {one} near a {SYNONYMS[other]}" for one, other in nouns[:60]]
    shards = {"vectors/000000.parquet": passages, "vectors/000001.parquet": elsewhere}
    for name, texts in shards.items():
        write_shard(Folder(str(folder)), name, texts, PromptEOLEncoder(teacher).encode(texts))
    rows = [{"file": name, "texts": len(texts)} for name, texts in shards.items()]
    (folder / MANIFEST).write_text(json.dumps({"teacher": str(teacher), "shards": rows}))
    home.settings = home.settings.model_copy(update={"teacher": str(teacher)})
    home.dataset.add_documents([make_document(f"d{number}", text) for number, text in enumerate(passages)])
    asked = [f"a {one} sees the {other}" for one, other in nouns]
    home.dataset.add([retrieval(query, text) for query, text in zip(asked, passages, strict=True)])
    round_ = plan(home.dataset, 1, plain_encoder)
    working, held_out, negatives = home.settings.dataset_dir / "rounds" / "1", set[str](), set[str]()

    def look(progress: Progress) -> None:
        if progress.state == "training" and not negatives:
            corpus = prepared(working / "corpus")
            assert corpus is not None
            held_out.update(text for _, text in corpus.queries(held_out=True))
            negatives.update(row[2] for portion in portions(working / ROWS_FILE) for row in portion)

    own = TrainerSettings(embeddings=str(folder), max_steps=2, gate="off")
    run_round(round_.id, home.dataset, home.store, home.settings, own, look)
    assert negatives & set(elsewhere)
    assert held_out
    assert not negatives & held_out
