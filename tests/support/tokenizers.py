"""A tokenizer for tests that count: a word is a token."""

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers


def word_tokenizer() -> Any:
    """Words between white space."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
