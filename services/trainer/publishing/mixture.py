"""Half-way is a choice: how much of what was trained goes into the candidate, by the label-free estimate."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from services.trainer.estimation.estimate import Estimator, Numbers
from services.trainer.evaluation.sts import Undefined
from services.trainer.models import encoder
from services.trainer.models.averaging import average

SHARES = (0.75, 0.5, 0.25)


class Mixture(NamedTuple):
    """A student between the base and what was trained from it."""

    model: Any
    share: float
    """Of what was trained."""


def mix(base: Any, trained: Any, estimators: Sequence[Estimator]) -> Mixture:
    """The mixture that is estimated to be best, on average over the kinds of tasks; all of it where none is better."""
    if not estimators:
        return Mixture(trained, 1.0)
    try:
        before = [one.cosines(partial(encoder.encode, base)) for one in estimators]
        best, most = Mixture(trained, 1.0), _gain(trained, estimators, before)
        for share in SHARES:
            model = average(base, trained, share)
            if (gain := _gain(model, estimators, before)) > most:
                best, most = Mixture(model, share), gain
    except (Undefined, ValueError):  # broken vectors are the gate's to name, and two architectures have no mean
        return Mixture(trained, 1.0)
    return best


def _gain(model: Any, estimators: Sequence[Estimator], before: Sequence[Numbers]) -> float:
    changes = [
        estimator.compare(old, estimator.cosines(partial(encoder.encode, model)), 0.0).value
        for estimator, old in zip(estimators, before, strict=True)
    ]
    return float(np.mean(changes))
