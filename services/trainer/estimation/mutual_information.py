"""What a language model says of pairs of texts: how much likelier one makes the other. No human has a say in it.

It is the pointwise mutual information a token, log p(b | a) - log p(b | a neutral text), of texts in a prompt
that says what they have in common. For passages and queries it is the query likelihood of Sachan et al. 2022,
"Improving Passage Retrieval with Zero-Shot Question Generation". Why it is believed: docs/quality.md.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from services.trainer.models.likelihood import MOST_TEXTS, Likelihood, Prompt
from shared import query_prompt

log = logging.getLogger(__name__)

PORTION = 100
"""Pairs between two writes of the file: seconds on a machine of two cores."""

Numbers = npt.NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """What is asked of a pair of texts."""

    prompt: Prompt
    neutral: str
    """Stands in the first text's place where nothing is to be learnt of the second."""
    symmetric: bool
    """Whether each text is scored after the other; otherwise the first alone, a query, after the second, a passage."""


SAME_MEANING = Question(
    Prompt(
        opening="Two messages with the same meaning:\n"
        '- "My parcel has not come yet."\n- "Where is my delivery? It is late."\n\n'
        'Two messages with the same meaning:\n- "',
        between='"\n- "',
        closing='"',
    ),
    neutral="Hello, I have a question.",
    symmetric=True,
)

QUERY = Question(
    Prompt(query_prompt.OPENING, query_prompt.BETWEEN, query_prompt.CLOSING),
    neutral=query_prompt.NEUTRAL,
    symmetric=False,
)


def measure_cached(
    pairs: Sequence[Pair],
    question: Question,
    file: Path,
    load: Callable[[], Likelihood],
    on_progress: Callable[[int, int], None],
) -> Numbers:
    """The mutual information of some pairs, [pairs], from `file` as far as it has them; then it has all of them.

    `load` loads the language model, if needed; `on_progress` gets how many pairs of how many were read. Raises what
    loading does, and OSError. A run that is killed goes on from the last portion that was written.
    """
    kept, neutral = _read(file), dict[str, float]()
    keys = [_digest(question, pair) for pair in pairs]
    missing = [(key, pair) for key, pair in dict(zip(keys, pairs, strict=True)).items() if key not in kept]
    # The language model reads a text once for all texts of a portion that it scores after it.
    missing.sort(key=lambda one: one[1][0 if question.symmetric else 1])
    for first in range(0, len(missing), PORTION):
        portion = dict(missing[first : first + PORTION])
        kept |= zip(portion, measure(list(portion.values()), question, load(), neutral).tolist(), strict=True)
        _write(file, kept)
        on_progress(first + len(portion), len(missing))
    return np.array([kept[key] for key in keys])


def measure(
    pairs: Sequence[Pair], question: Question, likelihood: Likelihood, neutral: dict[str, float] | None = None
) -> Numbers:
    """The mutual information of some pairs, [pairs]. `neutral` keeps how likely texts are after the neutral one."""
    neutral = {} if neutral is None else neutral
    conditions = [[(other, one) for one, other in pairs], *([list(pairs)] if question.symmetric else [])]
    needed = dict.fromkeys(pair for some in conditions for pair in some)
    alone = dict.fromkeys((question.neutral, text) for _, text in needed if text not in neutral)
    asked = sorted(needed | alone)
    groups = [
        (first, texts[start : start + MOST_TEXTS])
        for first, group in groupby(asked, itemgetter(0))
        for texts in [[text for _, text in group]]
        for start in range(0, len(texts), MOST_TEXTS)
    ]
    means = likelihood.mean_log_likelihoods(question.prompt, groups)
    values = dict(zip(asked, np.concatenate(means).tolist(), strict=True))
    neutral |= {text: values[question.neutral, text] for _, text in alone}
    gains = [[values[pair] - neutral[pair[1]] for pair in some] for some in conditions]
    return np.asarray(np.mean(gains, axis=0))


def _read(file: Path) -> dict[bytes, float]:
    if not file.is_file():
        return {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(zip((bytes(key) for key in arrays["keys"]), arrays["values"].tolist(), strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.warning("the mutual information in %s is computed anew: %s", file.name, error)
        return {}


def _write(file: Path, kept: dict[bytes, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    keys = np.frombuffer(b"".join(kept), np.uint8).reshape(len(kept), -1)
    with temporary.open("wb") as target:
        np.savez(target, keys=keys, values=np.array(list(kept.values()), np.float32))
    temporary.rename(file)


def _digest(question: Question, pair: Pair) -> bytes:
    return hashlib.blake2b(repr((question, pair)).encode(), digest_size=16).digest()
