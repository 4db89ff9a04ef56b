"""Rules for plain text are the tokenizer's own."""

import random
import string

import pytest
from tokenizers import Regex, Tokenizer, models
from tokenizers.normalizers import NFKC, Lowercase, Prepend, Replace, Sequence, Strip

from services.embedding.models.plain_text import plain_rules
from services.trainer.models import encoder
from services.trainer.models.normalization import static_tokenizer
from shared.settings import Settings, load
from shared.teacher import default_teacher

PLAIN = "".join(character for character in map(chr, range(128)) if character.isprintable())


def with_rules(*rules: object) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.normalizer = Sequence(list(rules))
    return tokenizer


def texts() -> list[str]:
    generator = random.Random(1)
    words = ["Hello", "WORLD", " ", "  ", "   ", "it's", '"', *string.punctuation, "12,345.67", "<|endoftext|>", PLAIN]
    return ["", " ", "  a", "b  ", *("".join(generator.choices(words, k=length)) for length in range(1, 200))]


def test_the_default_students_rules_give_what_its_tokenizer_gives() -> None:
    teacher = encoder.tokenizer(default_teacher(load(Settings).cache_dir))
    tokenizer, _ = static_tokenizer(teacher.backend_tokenizer, len(teacher))
    rules = plain_rules(tokenizer)
    assert rules is not None
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.normalizer = None
    for text in texts():
        assert rules(text) == tokenizer.normalizer.normalize_str(text)
        assert bare.encode(rules(text)).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    "rule",
    [
        Replace(Regex("[a]"), "b"),
        Replace("a", "b"),
        Replace(Regex("[\u2018-\u201f]"), "x"),
        Replace(Regex(r"\d+"), "0"),
    ],
    ids=["class with a letter", "string", "range", "other expression"],
)
def test_a_rule_that_is_not_known_leaves_all_to_the_tokenizer(rule: object) -> None:
    assert plain_rules(with_rules(NFKC(), rule)) is None


def test_each_rule_that_is_known() -> None:
    for rule in (NFKC(), Lowercase(), Strip(), Strip(right=False), Strip(left=False), Prepend("_")):
        tokenizer = with_rules(rule)
        rules = plain_rules(tokenizer)
        assert rules is not None
        for text in texts():
            assert rules(text) == tokenizer.normalizer.normalize_str(text)
    tokenizer.normalizer = None
    rules = plain_rules(tokenizer)
    assert rules is not None
    assert rules(PLAIN) == PLAIN
