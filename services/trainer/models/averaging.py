"""Half-way between two students: the mean of their weights (Wortsman et al. 2022, WiSE-FT)."""

import copy
from typing import Any

import numpy as np
from scipy.linalg import orthogonal_procrustes

from services.trainer.models import encoder


def average(base: Any, candidate: Any, share: float) -> Any:
    """A new student with `share` of the candidate's weights and the rest of the base's. Both have one architecture.

    A static student's vectors may have been rotated since: the base's are rotated to them first, which changes no
    cosine. Raises ValueError where the weights don't fit together.
    """
    model = copy.deepcopy(candidate)
    if encoder.is_static(candidate):
        old, new = encoder.token_embeddings(base), encoder.token_embeddings(candidate)
        if old.shape != new.shape:
            raise ValueError(f"the token embeddings are {old.shape} and {new.shape}")
        rotation, _ = orthogonal_procrustes(old.astype(np.float64), new.astype(np.float64))
        mean = (1 - share) * (old @ rotation) + share * new
        encoder.set_token_embeddings(model, np.asarray(mean, np.float32))
        return model
    if len(candidate) == len(base) + 1:  # it has got a linear map of its vectors (`encoder.add_linear_map`)
        base = copy.deepcopy(base)
        encoder.add_linear_map(base, np.eye(encoder.dimensions(base), dtype=np.float32))
    old_weights, weights = base.state_dict(), candidate.state_dict()
    if old_weights.keys() != weights.keys():
        raise ValueError("the two students have different layers")
    for name, weight in weights.items():
        if weight.is_floating_point():
            weights[name] = (1 - share) * old_weights[name].to(weight.device) + share * weight
    model.load_state_dict(weights)
    return model
