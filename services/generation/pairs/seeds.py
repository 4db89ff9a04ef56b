"""What is drawn by a job's seed: the same on every machine, in any order, after any crash."""

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

Item = TypeVar("Item")


def sample_seed(*parts: object) -> int:
    """63 bits that depend on every part and on nothing else."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def in_turn(pool: Sequence[Item], seed: int, number: int) -> Item:
    """Item `number` of an endless list: the pool again and again, each time in another order of the seed's."""
    turn, place = divmod(number, len(pool))
    return pool[_order(len(pool), seed, turn)[place]]


@lru_cache(maxsize=64)
def _order(size: int, seed: int, turn: int) -> list[int]:
    return random.Random(sample_seed(seed, "order", turn)).sample(range(size), size)
