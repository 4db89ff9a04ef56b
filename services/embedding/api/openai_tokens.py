"""OpenAI's token ids back to text: LangChain's client sends them unless it is told not to.

They are cl100k_base's, the table that clients take for a model that they don't know. tiktoken downloads it when it is
first asked for; a server doesn't, so it must be in tiktoken's cache already (`TIKTOKEN_CACHE_DIR`).
"""

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from services.embedding.api.requests import NO_TOKEN_IDS
from services.embedding.serving.errors import InvalidInput

NAME = "cl100k_base"
TABLE = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def decode(rows: Any) -> list[str]:
    """The text of each row of ids. Raises `InvalidInput` where the table isn't here, or doesn't have an id."""
    table = _table()
    if table is None:
        raise InvalidInput(f"`input`: {NO_TOKEN_IDS}", "input")
    try:
        return [table.decode(row) for row in rows]
    except (KeyError, OverflowError, ValueError):
        raise InvalidInput(f"`input`: these token ids are not all {NAME}'s: send text", "input") from None


@cache
def _table() -> Any:
    """tiktoken's table, if it can be had without a download."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = folder or str(Path(tempfile.gettempdir()) / "data-gym-cache")
    if not (Path(folder) / hashlib.sha1(TABLE.encode()).hexdigest()).is_file():
        return None
    import tiktoken  # only those who need it wait for it

    return tiktoken.get_encoding(NAME)
