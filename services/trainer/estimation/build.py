"""From a dataset's texts and pairs to estimators: choose pairs of texts, and ask a language model.

Similarity has no estimator: on generated pairs the likelihood ranks students no better than their labels do, which rise
for a placebo (docs/quality.md).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.trainer.estimation.estimate import Estimator, RankEstimator, SearchEstimator
from services.trainer.estimation.mutual_information import QUERY, SAME_MEANING, Numbers, Pair, measure_cached
from services.trainer.estimation.sample import (
    Places,
    held_out_search,
    near_and_far,
    queries_and_passages,
    sample_texts,
)
from services.trainer.evaluation.sts import Encode, Row
from services.trainer.models.likelihood import Likelihood

FEWEST_TEXTS = 40
"""Fewer different texts are no evidence."""
RELATED, RELATED_SHARE = 1.0, 0.08
"""By how much, in nats a token, a related text's mutual information is above the median partner's; and the share of
texts that must have a related one. Dictionary examples have 0.03, requests to an assistant 0.7."""


class LanguageModel(NamedTuple):
    """A language model, and where its answers are kept."""

    load: Callable[[], Likelihood]
    file: Path


class HeldOut(NamedTuple):
    """What is not learnt from: queries with their passages, and the passages among which these are looked for."""

    queries: Sequence[Pair]
    passages: Iterable[str]


def estimators(
    texts: Iterable[str],
    passages: Iterable[str],
    dev: Sequence[Row],
    held_out: HeldOut | None,
    students: Sequence[Encode],
    language_model: LanguageModel,
    on_progress: Callable[[int, int], None],
) -> list[Estimator]:
    """One for each kind of task that there is evidence for.

    `texts`: the first sentences of pairs, or queries. `passages`: the second sentences of pairs. `dev`: pairs that are
    not trained on. `held_out`: a corpus and its queries, where there is one. `students`: base students, who say what is
    near. Raises what loading the language model does, and OSError.
    """
    load, file = cache(language_model.load), language_model.file  # loaded once for all kinds
    estimators_, sample = list[Estimator](), sample_texts(texts)
    if len(sample) >= FEWEST_TEXTS:
        pairs = near_and_far(sample, [encode(sample) for encode in students])
        information = measure_cached(pairs.rows(), SAME_MEANING, file, load, on_progress)
        if _are_related(pairs.anchors, information):
            estimators_.append(RankEstimator("grouping", pairs, information))
    if held_out is None:
        search = queries_and_passages(dev, passages, students)
    else:
        search = held_out_search(held_out.queries, held_out.passages, students)
    if search is not None and len(search.queries) >= FEWEST_TEXTS:
        information = measure_cached(search.rows(), QUERY, file, load, on_progress)
        estimators_.append(SearchEstimator(search, information))
    return estimators_


def _are_related(anchors: Places, information: Numbers) -> bool:
    """Whether texts have partners of their own meaning: among strangers, likelihood knows style alone."""
    groups = [information[anchors == anchor] for anchor in np.unique(anchors)]
    return float(np.mean([group.max() - np.median(group) >= RELATED for group in groups])) >= RELATED_SHARE
