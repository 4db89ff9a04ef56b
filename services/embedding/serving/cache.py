"""Vectors that were computed before, by version and text, as many as fit into so many bytes."""

from dataclasses import dataclass

from cachetools import LRUCache

from services.embedding.models.base import EncodeOptions, Tokens, Vectors

OVERHEAD = 400
"""Bytes of an entry beside its vector and text, about."""


Key = tuple[str, str, str, str]
"""version, prompt, truncation side, text"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A text's vector and its tokens."""

    vector: Vectors
    """float32 [dimensions], as the model gave it: fewer dimensions or unit length come after."""
    count: int
    total: int
    size: int
    """Bytes, about."""


class Cache:
    """Least recently used entries go first. A version's id names its content, so entries never grow stale."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[Key, Entry] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """What the entries take up, about."""
        return int(self._entries.currsize)

    def get(self, version: str, options: EncodeOptions, text: str) -> Entry | None:
        """What was put under the same version, options and text, if it is still there."""
        if not self._entries:
            return None
        return self._entries.get((version, options.prompt, options.truncation_side, text))

    def put(self, version: str, options: EncodeOptions, text: str, tokens: Tokens, vector: Vectors) -> None:
        """Keep a vector; it is copied, so that it doesn't keep its whole batch alive."""
        size = OVERHEAD + vector.nbytes + 4 * len(text)
        key = (version, options.prompt, options.truncation_side, text)
        if size <= self._entries.maxsize:
            self._entries[key] = Entry(vector.copy(), tokens.count, tokens.total, size)
