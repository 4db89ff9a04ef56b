"""Which tokens end a sentence and which may never be drawn, read off the tokenizer.

A closing quote often comes inside a longer token ('."'), so stopping at the quote's own token would run on, and vLLM
would drop such a stop token from its text: the sentence is cut from the token ids instead.
"""

import re
from dataclasses import dataclass
from typing import Any

from services.generation.decoding.base import End, LineBreaks

QUOTE = '"'


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens by their role. All ids are below `size`, the model's vocabulary."""

    quotes: tuple[int, ...]
    """Tokens with a double quote and no line break before it."""
    line_breaks: tuple[int, ...]
    """Tokens with a line break (before any quote): suppressed in every lane before the softmax or, as the original
    has it, drawn and rejected."""
    banned: tuple[int, ...]
    """Special tokens and ids beyond the tokenizer: always suppressed, as DINO suppresses the end-of-text token."""

    @property
    def abort_token(self) -> int:
        """A banned token: never drawn, forced only to end lanes that fell out of lockstep."""
        return self.banned[0]

    def suppressed(self, line_breaks: LineBreaks) -> tuple[int, ...]:
        """All tokens that may not be drawn."""
        return self.banned if line_breaks == "reject" else (*self.banned, *self.line_breaks)

    def stop_tokens(self, line_breaks: LineBreaks) -> tuple[int, ...]:
        """All tokens that end a sentence: what follows a rejected line break would be waste."""
        return (*self.quotes, *self.line_breaks) if line_breaks == "reject" else self.quotes


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """Sort all `size` token ids of the model by role. Raises ValueError for a tokenizer that can't close a sentence."""
    special = set(tokenizer.all_special_ids)
    quotes, line_breaks, banned = [], [], []
    tokenizer_size = min(len(tokenizer), size)
    texts = tokenizer.batch_decode([[token] for token in range(tokenizer_size)])
    for token, text in enumerate(texts):
        before_quote, quote, _ = text.partition(QUOTE)
        if token in special:
            banned.append(token)
        elif "\n" in before_quote or "\r" in before_quote:
            line_breaks.append(token)
        elif quote:
            quotes.append(token)
    banned += range(tokenizer_size, size)
    if not quotes or not banned:
        raise ValueError("the teacher's tokenizer has no token with a double quote, or no special token")
    return Vocabulary(tuple(quotes), tuple(line_breaks), tuple(banned))


def cut(text: str) -> tuple[str, End]:
    """The sentence without blanks at its ends, and what ended it: whichever comes first of a quote and a line break."""
    sentence, quote, _ = text.partition(QUOTE)
    line, *more = re.split(r"[\n\r]", sentence, maxsplit=1)
    if more:
        return line.strip(), "line_break"
    return sentence.strip(), "quote" if quote else "length"
