"""What a round hands over for publication: a student in memory, how it came about, and how it does."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.store import Origin, Round
from services.trainer.estimation.estimate import Estimator
from services.trainer.evaluation.sts import StsFile, Undefined, correlation, score, similarities
from services.trainer.models import encoder
from services.trainer.training.fit import Outcome
from services.trainer.training.recipe import Recipe
from services.trainer.training.retrieval import CorpusStats
from services.trainer.training.split import Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentScores:
    """How a student does. The two kinds of scores never meet in one figure."""

    dev: float | None = None
    """Spearman x 100 on the generated dev pairs."""
    cosines: npt.NDArray[np.float64] | None = None
    """On the dev pairs, in their order; None without a dev side, or where the vectors are not finite."""
    human: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A student in memory and how it came about. Round 0 has no split, recipe or outcome."""

    model: Any
    round: Round
    dataset: str
    human: dict[str, StsFile]
    start: str | None = None
    split: Split | None = None
    recipe: Recipe | None = None
    selected_by: str | None = None
    outcome: Outcome | None = None
    before: StudentScores = StudentScores()
    preparation: dict[str, float] = field(default_factory=dict)
    """What was done before training and how many seconds it took, by names of the manifest's `training`."""
    corpus: CorpusStats | None = None
    """The passages and queries that it learnt from and is measured on."""
    origins: list[Origin] = field(default_factory=list)
    base: Any = None
    """The untrained base in memory; None in round 0, which publishes it."""
    estimators: list[Estimator] = field(default_factory=list)
    """What it is measured by without labels; [] where there is no evidence."""
    teacher: str = "default"
    """Whose table or layers the base was made of, if it was made."""
    share: float = 1.0
    """Of the trained student's weights in `model`; the rest is the base's."""


def score_student(model: Any, split: Split, human: Mapping[str, StsFile]) -> StudentScores:
    """How the student does on the dev pairs and on human-scored sets."""
    encode = partial(encoder.encode, model)
    dev, cosines, scores = None, None, {}
    if split.eval_pairs:
        try:
            cosines = similarities(encode, split.eval_pairs)
            dev = round(correlation([gold for _, _, gold in split.eval_pairs], cosines), 2)
        except Undefined as error:
            log.warning("no dev score: %s", error)
    for name, file in human.items():
        with suppress(Undefined):
            scores[name] = round(score(encode, file.rows), 2)
    return StudentScores(dev, cosines, scores)
