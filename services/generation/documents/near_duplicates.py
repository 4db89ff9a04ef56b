"""Near duplicates by MinHash, in memory that doesn't grow with the corpus.

A text's five-character shingles give 128 minima, in eight bands of sixteen. Of two texts that share 95% of their
shingles nine of ten have a band in common, at 90% half, at 70% one in a hundred. Bands that came before are kept in a
Bloom filter, so another text can be taken for one of them: with a million passages, one in ten million is.
"""

import numpy as np
from numpy.typing import NDArray

SHINGLE, BANDS, ROWS = 5, 8, 16
MANY = 256
"""Of more shingles, a quarter is looked at, the same ones in every text."""
FILTER_BITS, PROBES = 29, 8
"""The filter has 2^29 bits, 64 MB; the kernel gives what of it is used."""
FACTORS = np.random.default_rng(1).integers(1, 2**32, BANDS * ROWS, dtype=np.uint64).astype(np.uint32) | np.uint32(1)
TERMS = np.random.default_rng(2).integers(0, 2**32, BANDS * ROWS, dtype=np.uint64).astype(np.uint32)
MIX = np.uint64(0x9E3779B97F4A7C15)


class SeenTexts:
    """Which texts came before, or some that are nearly the same."""

    def __init__(self) -> None:
        self._bits = np.zeros(2 ** (FILTER_BITS - 3), np.uint8)

    def add(self, text: str) -> bool:
        """Whether a near duplicate of `text` came before; from now on, `text` did."""
        keys = _keys(text)
        probes = _mix(keys[:, None] + MIX * np.arange(1, PROBES + 1, dtype=np.uint64))
        places = probes >> np.uint64(64 - FILTER_BITS)
        cells, masks = places >> np.uint64(3), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
        is_there = bool(((self._bits[cells] & masks) > 0).all(axis=1).any())
        np.bitwise_or.at(self._bits, cells, masks)
        return is_there


def _keys(text: str) -> NDArray[np.uint64]:
    """One number for each band of the text's minima."""
    folded = "".join(filter(str.isalnum, text.casefold()))
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(max(1, len(codes) - SHINGLE + 1), np.uint64)
    for offset in range(min(SHINGLE, len(codes))):
        hashes = _mix(hashes * MIX + codes[offset : offset + len(hashes)])
    if len(hashes) > MANY:
        hashes = np.append(hashes[hashes % np.uint64(4) == 0], hashes.min())
    shingles = (hashes >> np.uint64(32)).astype(np.uint32)
    minima = (shingles[None, :] * FACTORS[:, None] + TERMS[:, None]).min(axis=1)
    keys = np.arange(BANDS, dtype=np.uint64)
    for row in minima.reshape(BANDS, ROWS).T:
        keys = _mix(keys * MIX + row)
    return keys


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of a number on every other (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
