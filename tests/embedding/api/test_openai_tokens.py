"""OpenAI's token ids, where their table isn't at hand; `tests/examples` has it."""

from pathlib import Path

import pytest

from services.embedding.api import openai_tokens
from services.embedding.serving.errors import InvalidInput


def test_without_the_table_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    openai_tokens._table.cache_clear()
    with pytest.raises(InvalidInput, match="check_embedding_ctx_length=False"):
        openai_tokens.decode([[64, 5679]])
    openai_tokens._table.cache_clear()
