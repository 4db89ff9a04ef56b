"""The one error that ends a process, and any error in one line. Imports nothing of ours."""

from collections.abc import Mapping
from typing import Any


class Fatal(Exception):
    """The process cannot go on; the message is one line that says what is wrong and what to do."""


def first_line(error: BaseException) -> str:
    """An error in one line that fits a log and a status: some libraries' messages have hundreds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def validation_message(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors, for a person: of a field that there isn't it would say "extra inputs"."""
    is_unknown = error["type"] == "extra_forbidden"
    return "unknown field" if is_unknown else str(error["msg"]).removeprefix("Value error, ")
