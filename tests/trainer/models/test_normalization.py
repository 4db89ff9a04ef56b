"""The same sentence is the same vector, however it was typed and whoever loads the student."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from services.embedding.models import load as served
from services.embedding.models.base import EncodeOptions
from services.trainer.evaluation.sts import unit
from services.trainer.models import encoder
from services.trainer.models.prompt_eol import prompted_tokenizer
from services.trainer.models.static import word_vectors
from services.trainer.students import locate
from services.trainer.students.names import SETTING
from shared.model_store import ModelStore
from shared.settings import Settings, load
from shared.teacher import default_teacher
from tests.support.byte_pair import FORMS, SENTENCES, byte_pair_tokenizer
from tests.support.students import write_teacher
from tests.support.versions import publish

ACCENTED = "Mme Lefèvre said: \u201cZürich\u2019s café isn\u2019t far, it\u2019s 3 km away!\u201d"
TEXTS = [*SENTENCES[::8], ACCENTED, " ".join(SENTENCES[:60]), " ".join([ACCENTED, *SENTENCES[100:160]])]
SPACING: dict[str, Callable[[str], str]] = {
    "double spaces": lambda text: text.replace(" ", "  "),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "ideographic spaces": lambda text: text.replace(" ", "\u3000"),
    "newlines": lambda text: text.replace(" ", "\n"),
    "Windows newlines and tabs": lambda text: text.replace(" ", "\r\n\t"),
    "spaces around": lambda text: f"\n  {text} \t",
    "byte order mark": lambda text: "\ufeff" + text,
    "soft hyphens": lambda text: text.replace("er", "e\u00adr"),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
}
CHARACTERS: dict[str, Callable[[str], str]] = {
    "NFKD": lambda text: unicodedata.normalize("NFKD", text),
    "full width": lambda text: "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text),
    "typographic marks": lambda text: text.replace("'", "\u2019").replace('"', "\u201d"),
    "straight marks": lambda text: text.replace("\u2019", "'").replace("\u201c", '"').replace("\u201d", '"'),
}
CASE: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "swapped": str.swapcase,
}


def least_cosine(student: SentenceTransformer, change: Callable[[str], str]) -> float:
    """Of a text and the same text typed differently."""
    one, other = (unit(encoder.encode(student, texts)) for texts in (TEXTS, [change(text) for text in TEXTS]))
    return float((one * other).sum(axis=1).min())


@pytest.mark.slow
def test_the_default_student_reads_a_sentence_however_it_is_typed() -> None:
    student = SentenceTransformer(locate.locate("default", "default", load(Settings).cache_dir), device="cpu")
    for name, change in (SPACING | CHARACTERS).items():
        assert least_cosine(student, change) >= 0.95, name
    for name, change in CASE.items():
        assert least_cosine(student, change) >= 0.9, name
    assert least_cosine(student, lambda text: text[::-1]) < 0.5  # which would be 1 if all texts were one


@pytest.mark.parametrize("form", FORMS)
def test_a_static_student_of_a_byte_pair_teacher_reads_small_letters(form: str, tmp_path: Path) -> None:
    tokenizer = byte_pair_tokenizer(form)
    table = np.random.default_rng(3).standard_normal((len(tokenizer), 24)).astype(np.float32)
    encoder.save(encoder.static_student(tokenizer, table), tmp_path)
    student = SentenceTransformer(str(tmp_path), device="cpu")
    for name, change in (SPACING | CHARACTERS | CASE).items():
        assert least_cosine(student, change) > 0.9999, name
    # A text's tokens are the teacher's for the same text inside another, with the teacher's vectors.
    pieces = tokenizer.tokenize("a man is a man")[-4:]
    expected = word_vectors(table, encoder.tokens(tokenizer, len(table)))[tokenizer.convert_tokens_to_ids(pieces)]
    np.testing.assert_allclose(encoder.encode(student, ["Man IS a\tman "])[0], expected.mean(axis=0), atol=1e-5)
    assert student[0].tokenizer.get_vocab_size() == student[0].num_embeddings < len(tokenizer)


def test_capitals_of_other_vocabularies_stay(tmp_path: Path) -> None:
    write_teacher(tmp_path, tied=True)
    tokenizer, table = encoder.tokenizer(tmp_path), encoder.token_table(tmp_path)
    read = encoder.static_student(tokenizer, table)[0].tokenizer.encode("  noun7\u00a0sees  NOUN7").tokens
    assert read == ["noun7", "sees", "[UNK]"]


@pytest.mark.slow
def test_the_teacher_as_a_student_reads_any_spacing_and_keeps_its_prompt(tmp_path: Path) -> None:
    tokenizer = prompted_tokenizer(default_teacher(load(Settings).cache_dir))
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    expected = saved(TEXTS)["input_ids"]
    for name, change in SPACING.items():
        assert saved([change(text) for text in TEXTS])["input_ids"] == expected, name
    assert saved.decode(expected[0]) == f'This sentence: "{TEXTS[0]}" means in one word: "'
    assert saved(TEXTS[0].upper())["input_ids"] != expected[0]


def test_the_service_and_sentence_transformers_read_the_same(tmp_path: Path) -> None:
    tokenizer = byte_pair_tokenizer("GPT-2")
    table = np.random.default_rng(3).standard_normal((len(tokenizer), 24)).astype(np.float32)
    store, options = ModelStore(tmp_path), EncodeOptions()
    manifest = publish(store, encoder.static_student(tokenizer, table), 0)
    theirs = encoder.load(str(store.path(manifest.id)), SETTING)
    ours = served.load(store.path(manifest.id), manifest, "cpu", 1, "auto")
    texts = [change(text) for change in (SPACING | CHARACTERS | CASE).values() for text in TEXTS]
    vectors = ours.encode(ours.tokenise(texts, options), options)
    np.testing.assert_allclose(vectors, encoder.encode(theirs, texts), atol=1e-6)
    [tokens] = ours.list_tokens(["A \u00a0MAN"], "", True, 10)
    assert [(token.text, token.start, token.stop) for token in tokens] == [("A", 0, 1), ("\u00a0MAN", 2, 6)]
