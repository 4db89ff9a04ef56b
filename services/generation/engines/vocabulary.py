"""Which tokens end a sentence and which may never be drawn, read off the tokenizer.

A closing quote often comes inside a longer token ('."'), so stopping at the quote's own token would run on, and vLLM
would drop such a stop token from its text: the sentence is cut from the token ids instead.
"""

from dataclasses import dataclass
from typing import Any

QUOTE = '"'


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens by their role. All ids are below `size`, the model's vocabulary."""

    stop: tuple[int, ...]
    """Tokens with a double quote and no line break before it."""
    banned: tuple[int, ...]
    """Line breaks, special tokens and ids beyond the tokenizer: suppressed in every lane before the softmax, as DINO
    suppresses the end-of-text token."""
    poison: int
    """A banned token: drawn never, forced only to end lanes that fell out of lockstep."""


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """Sort all `size` token ids of the model by role. Raises ValueError for a tokenizer that can't close a sentence."""
    special = set(tokenizer.all_special_ids)
    stop, banned = [], []
    known = min(len(tokenizer), size)
    texts = tokenizer.batch_decode([[token] for token in range(known)])
    for token, text in enumerate(texts):
        before_quote, quote, _ = text.partition(QUOTE)
        if token in special or "\n" in before_quote or "\r" in before_quote:
            banned.append(token)
        elif quote:
            stop.append(token)
    banned += range(known, size)
    if not stop or not banned:
        raise ValueError("the teacher's tokenizer has no token with a double quote, or none that may be banned")
    return Vocabulary(tuple(stop), tuple(banned), poison=banned[0])


def cut(text: str) -> tuple[str, bool]:
    """The sentence before the closing quote, without blanks at its ends, and whether the quote was there."""
    sentence, quote, _ = text.partition(QUOTE)
    return sentence.strip(), bool(quote)
