"""The rows that a bench measures: one a turn of a server in a setting."""

from typing import Any

Row = dict[str, Any]


def values(rows: list[Row], server: str, field: str, **where: Any) -> list[float]:
    """A field of all turns of a server in a setting."""
    wanted = {"server": server, **where}.items()
    return [row[field] for row in rows if field in row and all(row.get(key) == value for key, value in wanted)]


def best_of_32(rows: list[Row], server: str, lengths: str, field: str = "sentences_s") -> float | None:
    """The best turn with 32 inputs a request and 16 connections; `bulk` has neither. None when there was none."""
    setting = {} if server == "bulk" else {"inputs": 32, "connections": 16}
    return max(values(rows, server, field, lengths=lengths, **setting), default=None)
