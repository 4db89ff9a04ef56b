"""What all kinds of students share: a tokenizer of the `tokenizers` library, and the version's prompts. No torch."""

import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from services.embedding.models.base import EncodeOptions, Encoder, Token
from shared.manifest import Manifest


class TokenizingEncoder(Encoder):
    """A student whose tokenizer is in memory."""

    def __init__(
        self, manifest: Manifest, tokenizer: Any, prompts: Mapping[str, str | None], default_prompt_name: str | None
    ) -> None:
        """`tokenizer`: of the `tokenizers` library, or one of transformers' around it."""
        super().__init__(manifest)
        self._tokenizer_lock, self._list_lock = threading.Lock(), threading.Lock()
        self._raw_tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)  # the `tokenizers` library's own
        self.prompts = {name: prompt or "" for name, prompt in prompts.items()}
        self.default_prompt = self.prompts.get(default_prompt_name or "", "")
        # A text that holds `<|endoftext|>` or `[SEP]` is about them. A version's own prompts may mean them.
        self._special_is_text = not _name_special_tokens(self.prompts.values(), self._raw_tokenizer)
        if tokenizer is not self._raw_tokenizer:
            tokenizer.split_special_tokens = self._special_is_text  # transformers' word for it
        self._raw_tokenizer.encode_special_tokens = self._special_is_text

    def list_tokens(self, texts: Sequence[str], prompt: str, add_special_tokens: bool, limit: int) -> list[list[Token]]:
        listed, count = [], 0
        for text in texts:
            with self._list_lock:
                encoding = self._list_tokenizer.encode(prompt + text, add_special_tokens=add_special_tokens)
            count += len(encoding)
            if count > limit:
                raise ValueError(f"more than {limit} tokens")
            listed.append(_tokens(encoding, text, len(prompt)))
        return listed

    @cached_property
    def _list_tokenizer(self) -> Any:
        """A copy that cuts and pads nothing, whatever the model's own does meanwhile."""
        tokenizer = copy.deepcopy(self._raw_tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = self._special_is_text  # a copy forgets it
        return tokenizer

    def decode(self, ids: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        raw = self._raw_tokenizer
        size = raw.get_vocab_size(with_added_tokens=True)
        if any(not 0 <= id_ < size for row in ids for id_ in row):
            raise ValueError(f"token ids must be from 0 to {size - 1}")
        texts: list[str] = raw.decode_batch([list(row) for row in ids], skip_special_tokens=skip_special_tokens)
        return texts


def truncated(
    ids_of: Callable[[list[str], str, int | None], list[list[int]]],
    texts: Sequence[str],
    options: EncodeOptions,
    limit: int | None,
) -> list[tuple[list[int], int]]:
    """Of each text the token ids that are read, and how many tokens the whole text has.

    `ids_of` gives the ids of some texts, cut at a side (`left` or `right`) to a number; None: not cut.
    """
    prompted = [options.prompt + text for text in texts] if options.prompt else list(texts)
    ids = ids_of(prompted, options.truncation_side, limit)
    # Only those that fill the window may have been cut: they are counted again.
    full = [place for place, row in enumerate(ids) if len(row) == limit]
    whole = ids_of([prompted[place] for place in full], options.truncation_side, None) if full else []
    totals = dict(zip(full, map(len, whole), strict=True))
    return [(row, totals.get(place, len(row))) for place, row in enumerate(ids)]


def _name_special_tokens(texts: Iterable[str], tokenizer: Any) -> bool:
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return any(token in text for text in texts for token in special)


def _tokens(encoding: Any, text: str, prompt_length: int) -> list[Token]:
    tokens = []
    rows = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    for id_, word, special, (start, stop) in rows:
        if special:
            tokens.append(Token(id_, word, True, None, None))
            continue
        start, stop = max(0, start - prompt_length), max(0, stop - prompt_length)
        tokens.append(Token(id_, text[start:stop] or word, False, start, stop))
    return tokens
