"""OpenAI's token ids: read where their table is at hand, refused with the remedy elsewhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.embedding.api import openai_tokens
from services.embedding.serving.errors import InvalidInput


@pytest.fixture(autouse=True)
def forgotten_table() -> Iterator[None]:
    openai_tokens._table.cache_clear()
    yield
    openai_tokens._table.cache_clear()


def test_without_the_table_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(InvalidInput, match="check_embedding_ctx_length=False"):
        openai_tokens.decode([[64, 5679]])


@pytest.mark.skipif(
    openai_tokens._table() is None, reason=f"no {openai_tokens.NAME} in {os.environ.get('TMPDIR', '/tmp')}"
)
def test_with_the_table_ids_are_text() -> None:
    assert openai_tokens.decode([[64, 5679], [6]]) == ["a dog", "'"]
    with pytest.raises(InvalidInput, match="not all cl100k_base's"):
        openai_tokens.decode([[10**6]])
