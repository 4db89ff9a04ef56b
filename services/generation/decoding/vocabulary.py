"""Which tokens end a sentence and which may never be drawn, read off the tokenizer.

A closing quote often comes inside a longer token ('."'), so stopping at the quote's own token would run on, and vLLM
would drop such a stop token from its text: the sentence is cut from the token ids instead.
"""

import re
from dataclasses import dataclass
from typing import Any

from services.generation.decoding.base import End

QUOTE = '"'


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens by their role. All ids are below `size`, the model's vocabulary."""

    stop: tuple[int, ...]
    """Tokens with a double quote and no line break before it."""
    line_breaks: tuple[int, ...]
    """Tokens with a line break (before any quote): suppressed in every lane before the softmax or, as the original
    has it, drawn and rejected."""
    banned: tuple[int, ...]
    """Special tokens and ids beyond the tokenizer: always suppressed, as DINO suppresses the end-of-text token."""
    poison: int
    """A banned token: drawn never, forced only to end lanes that fell out of lockstep."""

    def never(self, line_breaks: bool) -> tuple[int, ...]:
        """All tokens that may not be drawn, with or without line breaks."""
        return self.banned if line_breaks else (*self.banned, *self.line_breaks)

    def ends(self, line_breaks: bool) -> tuple[int, ...]:
        """All tokens that end a sentence: after a line break nothing can save it, so writing on would be waste."""
        return (*self.stop, *self.line_breaks) if line_breaks else self.stop


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """Sort all `size` token ids of the model by role. Raises ValueError for a tokenizer that can't close a sentence."""
    special = set(tokenizer.all_special_ids)
    stop, line_breaks, banned = [], [], []
    known = min(len(tokenizer), size)
    texts = tokenizer.batch_decode([[token] for token in range(known)])
    for token, text in enumerate(texts):
        before_quote, quote, _ = text.partition(QUOTE)
        if token in special:
            banned.append(token)
        elif "\n" in before_quote or "\r" in before_quote:
            line_breaks.append(token)
        elif quote:
            stop.append(token)
    banned += range(known, size)
    if not stop or not banned:
        raise ValueError("the teacher's tokenizer has no token with a double quote, or no special token")
    return Vocabulary(tuple(stop), tuple(line_breaks), tuple(banned), poison=banned[0])


def cut(text: str) -> tuple[str, End]:
    """The sentence without blanks at its ends, and what ended it: whichever comes first of a quote and a line break."""
    sentence, quote, _ = text.partition(QUOTE)
    line, *more = re.split(r"[\n\r]", sentence, maxsplit=1)
    if more:
        return line.strip(), "line_break"
    return sentence.strip(), "quote" if quote else "length"
