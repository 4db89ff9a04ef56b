"""Vectors that were computed before, by version and text, as many as fit into so many bytes."""

from collections import OrderedDict
from dataclasses import dataclass

from services.embedding.models.base import EncodeOptions, Tokens, Vectors

OVERHEAD = 400
"""Bytes of an entry beside its vector and text, about."""

Key = tuple[str, str, str, str]
"""version, prompt, truncation side, text"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a text."""

    vector: Vectors
    """float32 [dimensions], as the model gave it: callers' wishes for fewer or normalised ones come after."""
    count: int
    total: int


class Cache:
    """Least recently used entries go first. A version's id names its content, so entries never grow stale."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, version: str, options: EncodeOptions, text: str) -> Entry | None:
        """What was put under the same version, options and text, if it is still there."""
        if not self._entries:
            return None
        key = (version, options.prompt, options.truncation_side, text)
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, version: str, options: EncodeOptions, text: str, tokens: Tokens, vector: Vectors) -> None:
        """Keep a vector; it is copied, so that it doesn't keep its whole batch alive."""
        size = self._size(text, vector)
        key = (version, options.prompt, options.truncation_side, text)
        if size > self._max_bytes or key in self._entries:
            return
        self._entries[key] = Entry(vector.copy(), tokens.count, tokens.total)
        self.bytes += size
        while self.bytes > self._max_bytes:
            old, entry = self._entries.popitem(last=False)
            self.bytes -= self._size(old[3], entry.vector)

    def forget(self, version: str) -> None:
        """Drop a version's entries."""
        for key in [key for key in self._entries if key[0] == version]:
            self.bytes -= self._size(key[3], self._entries.pop(key).vector)

    @staticmethod
    def _size(text: str, vector: Vectors) -> int:
        return OVERHEAD + vector.nbytes + 4 * len(text)
