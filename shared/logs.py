"""One log event as one JSON object, with its ids: request, job, round, version, trace."""

import contextlib
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

from shared import tracing

_context_ids: ContextVar[dict[str, str] | None] = ContextVar("pairwright_log_ids", default=None)


@contextlib.contextmanager
def log_context(**ids: str | int | None) -> Iterator[None]:
    """Add `request_id`, `job`, `round` or `version` to what is logged inside, in this task and those it starts."""
    new = {name: str(value) for name, value in ids.items() if value is not None}
    token = _context_ids.set((_context_ids.get() or {}) | new)
    try:
        yield
    finally:
        _context_ids.reset(token)


class JsonFormatter(logging.Formatter):
    """`time` (UTC), `level`, `logger`, `service`, `message`, the ids, and `error`: the traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "service": self._service,
            "message": record.getMessage(),
            **(_context_ids.get() or {}),
            **tracing.current_ids(),
        }
        if record.exc_info:
            event["error"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False, default=str)
