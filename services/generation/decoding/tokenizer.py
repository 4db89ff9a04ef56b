"""The teacher's tokenizer: prompts into tokens, drawn tokens into a completion, and its tokens by their role.

A closing quote often comes inside a longer token ('."'), so stopping at the quote's own token would run on, and vLLM
would drop such a stop token from its text: the sentence is cut from the token ids instead.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.generation.decoding.base import (
    Completion,
    Continuation,
    Decoding,
    End,
    LineBreaks,
    NoChatTemplate,
    PromptTooLong,
    Sample,
    TextTooLong,
    Turn,
)

QUOTE = '"'
LONGEST_TEXT = 512
"""Tokens of a text whose likelihood is asked for: each is a step of the engine."""
SENTENCE_END = re.compile(r"(^|[.!?…。！？।॥؟۔]['’”»)\]]*)\s*$")
OPENS_INSIDE = re.compile(r"[\s(\[{=–—:,;]$")
"""What stands before a quote that opens a quotation; a sentence that ends so has not ended."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens by their role. All ids are below `size`, the model's vocabulary."""

    quotes: tuple[int, ...]
    """Tokens with a double quote and no line break before it."""
    line_breaks: tuple[int, ...]
    """Tokens with a line break (before any quote): suppressed or, as the original has it, drawn and rejected."""
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


class TeacherTokenizer:
    """Prompts into tokens, and tokens into a completion. Not thread-safe."""

    def __init__(self, model: str, vocabulary_size: int) -> None:
        """Load it. Raises whatever transformers raises, and ValueError if it can't close a sentence."""
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.vocabulary = read_vocabulary(self._tokenizer, vocabulary_size)
        # A counter-label's prompt is another label's own prompt: each is tokenised once.
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)

    def encode_lanes(self, sample: Sample) -> list[tuple[int, ...]]:
        """The token ids of a sample's lanes. Without decay the counter-prompts change nothing and get no lane."""
        prompts = sample.prompts if sample.decoding.decay_constant > 0 else sample.prompts[:1]
        return [self._encode(prompt, sample.templated) for prompt in prompts]

    def encode_continuation(self, continuation: Continuation, limit: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The token ids of a prompt and of the text after it, no more than `limit` together. Raises `PromptTooLong`."""
        opening, between = self._encode(continuation.opening, False), self._encode(continuation.between, True)
        passage, text = self._encode_foreign(continuation.passage), self._encode_foreign(continuation.text)
        closing = self._encode(continuation.closing, True)
        room = limit - len(opening) - len(between) - len(closing)
        longest = min(LONGEST_TEXT, room // 2)
        if longest < 1 or (len(text) > longest and not continuation.truncate):
            raise TextTooLong(f"it has {len(text)} tokens; the engine reads {max(0, longest)} of a text")
        text = text[:longest]
        if len(passage) + len(text) > room and not continuation.truncate:
            raise PromptTooLong(f"it has {len(passage)} tokens; beside this text the engine reads {room - len(text)}")
        return (*opening, *passage[: room - len(text)], *between), (*text, *closing)

    def completion(self, tokens: Sequence[int]) -> Completion:
        """What was written with the drawn `tokens`, the one that ended it included."""
        text, end = cut(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        return Completion(text, end, len(tokens))

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """The text after which the teacher goes on with the last turn, the assistant's. Raises `NoChatTemplate`."""
        if not getattr(self._tokenizer, "chat_template", None):
            raise NoChatTemplate("the teacher has no chat template: it is a base model; use the prompt form `plain`")
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, continue_final_message=True))

    def _encode_foreign(self, text: str) -> tuple[int, ...]:
        """A text that a caller sent: it may not write the model's special tokens."""
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        # Where a tokenizer has one token for all that it doesn't know, lanes may be aborted by that.
        return tuple(token for token in ids if token != self.vocabulary.abort_token)

    def _encode_uncached(self, prompt: str, templated: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer(prompt, add_special_tokens=not templated).input_ids)


def check_length(prompts: Sequence[Sequence[int]], decoding: Decoding, limit: int) -> None:
    """Raises `PromptTooLong` if the longest prompt with its output exceeds `limit` tokens."""
    longest, output = max(map(len, prompts)), decoding.max_tokens
    if longest + output > limit:
        raise PromptTooLong(f"a prompt of {longest} tokens with {output} to write exceeds the engine's {limit}")


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """Sort all `size` token ids of the model by role. Raises ValueError for a tokenizer that can't close a sentence."""
    special = set(tokenizer.all_special_ids)
    quotes, line_breaks, banned = [], [], []
    tokenizer_size = min(len(tokenizer), size)
    for token, text in enumerate(tokenizer.batch_decode([[token] for token in range(tokenizer_size)])):
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
    """The sentence without blanks at its ends, and what ended it: whichever comes first of a quote and a line break.

    A quote after a blank or an opening bracket, in mid-sentence, opens a quotation; so does one with a letter after it.
    """
    sentence, quote, after = text.partition(QUOTE)
    line, *more = re.split(r"[\n\r]", sentence, maxsplit=1)
    if more:
        return line.strip(), "line_break"
    if not quote:
        return sentence.strip(), "length"
    is_inside = not SENTENCE_END.search(sentence) and bool(OPENS_INSIDE.search(sentence) or after[:1].isalnum())
    return sentence.strip(), "inner_quote" if is_inside else "quote"
