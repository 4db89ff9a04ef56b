"""From a dataset's texts and pairs to estimators: choose pairs of texts, and ask a language model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from services.trainer.estimation.estimate import Estimator, RankEstimator, SearchEstimator
from services.trainer.estimation.mutual_information import QUERY, SAME_MEANING, measure_cached
from services.trainer.estimation.sample import (
    TextPairs,
    near_and_far,
    own_and_others,
    queries_and_passages,
    sample_texts,
)
from services.trainer.evaluation.sts import Encode, Row
from services.trainer.models.likelihood import Likelihood

FEWEST_TEXTS = 40
"""Fewer different texts are no evidence."""


class LanguageModel(NamedTuple):
    """A language model, and where its answers are kept."""

    load: Callable[[], Likelihood]
    file: Path


def estimators(
    texts: Iterable[str],
    passages: Iterable[str],
    dev: Sequence[Row],
    students: Sequence[Encode],
    language_model: LanguageModel,
    on_progress: Callable[[int, int], None],
) -> list[Estimator]:
    """One for each kind of task that there is evidence for.

    `texts`, `passages`: the first and the second sentences of pairs. `dev`: pairs that are not trained on. `students`:
    base students, who say what is near. Raises what loading the language model does, and OSError.
    """
    load = cache(language_model.load)  # once for all kinds
    file = language_model.file
    estimators_: list[Estimator] = [
        RankEstimator(kind, pairs, measure_cached(pairs.rows(), SAME_MEANING, file, load, on_progress))
        for kind, pairs in _pairs(texts, dev, students)
    ]
    searched = queries_and_passages(dev, passages, students)
    if searched is not None and len(searched.queries) >= FEWEST_TEXTS:
        information = measure_cached(searched.rows(), QUERY, file, load, on_progress)
        estimators_.append(SearchEstimator(searched, information))
    return estimators_


def _pairs(texts: Iterable[str], dev: Sequence[Row], students: Sequence[Encode]) -> Iterator[tuple[str, TextPairs]]:
    sample = sample_texts(texts)
    if len(sample) >= FEWEST_TEXTS:
        yield "grouping", near_and_far(sample, [encode(sample) for encode in students])
    own = own_and_others(dev)
    if len(own.texts) >= FEWEST_TEXTS:
        yield "similarity", own
