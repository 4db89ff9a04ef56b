"""Vectors that were computed before, by version and text, as many as fit into so many bytes."""

from typing import NamedTuple

from cachetools import LRUCache

from services.embedding.models.base import EncodeOptions, Tokens, Vectors

OVERHEAD = 400
"""Bytes of an entry beside its vector and text, about."""


class Entry(NamedTuple):
    """A text's vector, float32 [dimensions] as the model gave it, its tokens without a payload, and about its bytes."""

    vector: Vectors
    tokens: Tokens
    size: int


class Cache:
    """Least recently used entries go first. A version's id names its content, so entries never grow stale."""

    def __init__(self, max_bytes: int) -> None:
        # By version, prompt, truncation side and text.
        self._entries: LRUCache[tuple[str, ...], Entry] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)

    def get(self, version: str, options: EncodeOptions, text: str) -> Entry | None:
        """What was put under the same version, options and text, if it is still there."""
        if not self._entries:
            return None
        return self._entries.get((version, options.prompt, options.truncation_side, text))

    def put(self, version: str, options: EncodeOptions, text: str, tokens: Tokens, vector: Vectors) -> None:
        """Keep a vector; it is copied, so that it doesn't keep its whole batch alive."""
        size = OVERHEAD + vector.nbytes + 4 * len(text)
        if size <= self._entries.maxsize:
            key = (version, options.prompt, options.truncation_side, text)
            self._entries[key] = Entry(vector.copy(), Tokens(tokens.count, tokens.total, None), size)
