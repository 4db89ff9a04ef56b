"""The same sentence, typed differently, is the same text: rules that live in a student's own tokenizer file.

Whoever loads the student applies them: sentence-transformers, the embedding service, anyone. They are for students that
we make. One that the user brings keeps its tokenizer as it is: prompts with line breaks and code depend on white space.
"""

import json
import re
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import NFC, NFKC, Lowercase, Prepend, Replace, Sequence, Strip

INVISIBLE = "[\u00ad\u200b\u2060\ufeff]"
"""Soft hyphen, zero-width space, word joiner, byte order mark."""
APOSTROPHES, QUOTATION_MARKS = "[\u2018\u2019\u02bc]", "[\u201c\u201d\u201e]"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
CAPITALS = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
"""ASCII only: in a byte-level vocabulary other letters stand for bytes."""


def normalize_spacing(tokenizer: Any) -> None:
    """Composed Unicode, each run of white space as one space, none at the ends, nothing invisible."""
    _prepend_rules(tokenizer, [NFC(), *_spacing()])


def static_tokenizer(tokenizer: Any, rows: int) -> tuple[Any, list[int]]:
    """A static student's tokenizer, and which of a teacher's `rows` token embeddings each of its own tokens takes.

    Compatible characters are one (NFKC), and so are straight and typographic quotation marks. In a byte-pair vocabulary
    all letters are small, and a text's first word is the token that it is inside a text; special tokens are plain text.
    """
    state = json.loads(tokenizer.to_str())
    state |= {"truncation": None, "padding": None}
    if state["model"]["type"] != "BPE":
        same = Tokenizer.from_str(json.dumps(state))
        _prepend_rules(same, [*_characters(), *_spacing()])
        return same, list(range(rows))
    ids = _fold_case(state)
    folded = Tokenizer.from_str(json.dumps(state))
    has_leading_space = folded.encode("a").tokens == folded.encode("a a").tokens[1:]
    _prepend_rules(folded, [*_characters(), Lowercase(), *_spacing(), *([] if has_leading_space else [Prepend(" ")])])
    return folded, ids


def _characters() -> list[Any]:
    return [NFKC(), Replace(Regex(APOSTROPHES), "'"), Replace(Regex(QUOTATION_MARKS), '"')]


def _spacing() -> list[Any]:
    return [Replace(Regex(INVISIBLE), ""), Replace(Regex(r"\s+"), " "), Strip()]


def _prepend_rules(tokenizer: Any, rules: list[Any]) -> None:
    own = tokenizer.normalizer
    tokenizer.normalizer = Sequence([*rules, *([own] if own is not None else [])])


def _fold_case(state: dict[str, Any]) -> list[int]:
    """Make a byte-pair tokenizer's state lower case in place; the old id of each new one.

    Merges are lower-cased with the tokens: "par" and "is" make "paris" where "Par" and "is" made "Paris".
    """
    model = state["model"]
    kept = {token for token in model["vocab"] if BYTE_TOKEN.fullmatch(token)} | {model["unk_token"]}
    special = {token["content"] for token in state["added_tokens"]} - kept
    ids: dict[str, int] = {}
    for token, number in sorted(model["vocab"].items(), key=lambda item: (item[0] != _lower(item[0]), item[1])):
        if token not in special:
            ids.setdefault(token if token in kept else _lower(token), number)
    tokens = sorted(ids, key=ids.__getitem__)
    model["vocab"] = {token: number for number, token in enumerate(tokens)}
    merges = dict.fromkeys((_lower(left), _lower(right)) for left, right in model["merges"])
    model["merges"] = [(left, right) for left, right in merges if {left, right, left + right} <= ids.keys()]
    model["ignore_merges"] = True  # a word of the vocabulary is that token, whatever the merges come to
    state |= {"added_tokens": [], "post_processor": None}
    return [ids[token] for token in tokens]


def _lower(token: str) -> str:
    return token.translate(CAPITALS)
