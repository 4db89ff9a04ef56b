"""A set of texts of any size in little memory: their hashes in SQLite's own temporary file, on the driver's disk."""

import hashlib
import sqlite3
from types import TracebackType
from typing import Self

from shared.errors import Fatal

CACHE_KIB = 64 * 1024
"""Memory of a set; past it SQLite reads its file."""


class KnownTexts:
    """Texts by 128 bits of their hash. Raises `Fatal` where the temporary folder is full."""

    def __init__(self) -> None:
        self._sql = sqlite3.connect("", isolation_level=None)  # "": a file that nobody else sees, gone at the end
        self._sql.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._sql.execute("PRAGMA journal_mode = OFF")
        self._sql.execute("PRAGMA synchronous = OFF")
        self._sql.execute("CREATE TABLE known (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        self._sql.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sql.close()

    def __contains__(self, text: object) -> bool:
        return self._sql.execute("SELECT 1 FROM known WHERE hash = ?", (_hash(text),)).fetchone() is not None

    def add(self, text: object) -> bool:
        """Whether it is new."""
        try:
            return self._sql.execute("INSERT OR IGNORE INTO known VALUES (?)", (_hash(text),)).rowcount == 1
        except sqlite3.OperationalError as error:
            raise Fatal(f"the driver's temporary folder: {error}; name another one with TMPDIR") from None


def _hash(text: object) -> bytes:
    return hashlib.blake2b(str(text).encode(), digest_size=16).digest()
