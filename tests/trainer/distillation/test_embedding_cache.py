"""Teacher embeddings: of a real teacher, each sentence embedded once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.trainer.dataset.arrow import TableWriter
from services.trainer.distillation import embedding_cache
from services.trainer.evaluation.sts import Encode
from services.trainer.models import encoder, prompt_eol
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Embeddings
from services.trainer.students import locate
from services.trainer.students.names import SETTING
from services.trainer.training import split
from shared.errors import Fatal
from tests.support.pairs import make_pairs, plan, records
from tests.support.students import write_teacher
from tests.support.trainer_homes import Home

TEXTS = ["a noun7 sees noun1", "noun2", "the noun3 sees a noun4 and noun4 sees noun5"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_teacher(folder, tied=True, layers=5)
    return folder


class CountedTeacher:
    """A teacher that notes which texts it embeds, and dies at one of them if it is told to."""

    def __init__(self, teacher: Path, dies_at: str | None = None) -> None:
        self._teacher, self._dies_at = teacher, dies_at
        self.texts = list[str]()

    def load(self) -> Encode:
        encode = PromptEOLEncoder(self._teacher).encode

        def count(texts: Sequence[str]) -> Embeddings:
            if self._dies_at in texts:
                raise KeyboardInterrupt
            self.texts += texts
            embeddings: Embeddings = encode(texts)
            return embeddings

        return count


def test_an_embedding_is_the_state_at_the_end_of_the_prompt(teacher: Path) -> None:
    """Against the whole model, one sentence at a time and with a prompt written by hand; the first 4 of 5 layers."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    embeddings = PromptEOLEncoder(teacher).encode(TEXTS)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        prompt = f'This sentence: "{text}" means in one word: "'
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        states = model(ids, output_hidden_states=True).hidden_states[round(0.9 * 5)]
        np.testing.assert_allclose(embedding, model.model.norm(states)[0, -1].detach().numpy(), atol=1e-5)


def test_the_teacher_as_a_student_embeds_the_same_less_what_all_have_in_common(teacher: Path, tmp_path: Path) -> None:
    made = locate.locate("teacher", str(teacher), tmp_path)
    model = encoder.load(made, SETTING)
    assert not encoder.is_static(model)
    assert encoder.max_seq_length(model) == prompt_eol.LONGEST
    centre = PromptEOLEncoder(teacher).encode(TEXTS) - encoder.encode(model, TEXTS)
    np.testing.assert_allclose(centre, np.broadcast_to(centre[0], centre.shape), atol=1e-5)
    assert np.abs(centre).max() > 0
    assert locate.locate("teacher", str(teacher), tmp_path) == made
    assert locate.locate("default", str(teacher), tmp_path) != made


def test_a_long_text_is_cut_and_the_prompt_is_not(teacher: Path) -> None:
    tokenizer = prompt_eol.prompted_tokenizer(teacher)
    whole, cut = (tokenizer("noun1 " * 500, **given)["input_ids"] for given in ({}, prompt_eol.TOKENIZER_OPTIONS))
    ending = len(tokenizer(prompt_eol.SUFFIX, add_special_tokens=False)["input_ids"]) // 2
    assert (len(cut), len(whole) > 500) == (prompt_eol.LONGEST, True)
    assert cut[-ending:] == whole[-ending:]


def test_each_sentence_is_embedded_once_through_damage(teacher: Path, tmp_path: Path) -> None:
    file, counted, progress = tmp_path / "embeddings.npz", CountedTeacher(teacher), list[int]()
    first = embedding_cache.encode_cached(TEXTS[:2], file, counted.load, progress.append)
    again = embedding_cache.encode_cached([*TEXTS, TEXTS[0]], file, counted.load, progress.append)
    assert sorted(counted.texts) == sorted(TEXTS)
    assert progress[-1] == 4
    np.testing.assert_array_equal(again[:2], first)
    np.testing.assert_array_equal(again[3], first[0])
    np.testing.assert_allclose(first, PromptEOLEncoder(teacher).encode(TEXTS[:2]), atol=0.01)
    file.write_bytes(file.read_bytes()[:100])
    assert embedding_cache.encode_cached(TEXTS, file, counted.load, progress.append).shape == again[:3].shape
    assert len(counted.texts) == 2 * len(TEXTS)


def test_what_was_embedded_before_a_death_is_kept_and_then_nothing_is_loaded(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "CHUNK", 1)
    file = tmp_path / "embeddings.npz"
    with pytest.raises(KeyboardInterrupt):
        embedding_cache.encode_cached(TEXTS, file, CountedTeacher(teacher, TEXTS[2]).load, lambda _: None)
    counted = CountedTeacher(teacher)
    embedding_cache.encode_cached(TEXTS, file, counted.load, lambda _: None)
    assert counted.texts == TEXTS[2:]

    def never() -> Encode:
        raise AssertionError("the teacher was loaded")

    assert len(embedding_cache.encode_cached(TEXTS, file, never, lambda _: None)) == len(TEXTS)


def test_a_cache_of_version_0_1_is_read_under_its_new_name(teacher: Path, tmp_path: Path) -> None:
    counted, file = CountedTeacher(teacher), embedding_cache.cache_file(tmp_path, "abc")
    embeddings = embedding_cache.encode_cached(TEXTS, file, counted.load, lambda _: None)
    with np.load(file) as arrays:
        old = {"keys": arrays["keys"], "views": arrays["embeddings"]}  # retired: remove in 0.3
        np.savez(tmp_path / "views-abc.npz", **old)  # retired: remove in 0.3
    file.unlink()
    assert embedding_cache.cache_file(tmp_path, "abc") == file
    again = embedding_cache.encode_cached(TEXTS, file, counted.load, lambda _: None)
    np.testing.assert_array_equal(again, embeddings)
    assert len(counted.texts) == len(TEXTS)


def test_a_growing_dataset_samples_mostly_the_same_sentences(tmp_path: Path) -> None:
    def texts(count: int) -> set[str]:
        with TableWriter(tmp_path / "rows.arrow", split.PAIRS) as writer:
            for number in range(count):
                writer.write((f"sentence {number}", f"another {number}", 0.5))
        return set(embedding_cache.sample_texts(tmp_path / "rows.arrow", 300))

    some, more = texts(500), texts(600)
    assert len(some) == len(more) == 300
    assert len(some & more) > 200
    assert len(texts(40)) == 80


def test_a_teacher_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="PAIRWRIGHT_TEACHER: can't load"):
        PromptEOLEncoder(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_teacher_as_a_student_is_published_and_trains(home: Home, teacher: Path, tmp_path: Path) -> None:
    home.settings = home.settings.model_copy(update={"teacher": str(teacher), "cache": tmp_path / "cache"})
    base = home.published(home.run(home.dataset.plan_base(1, "teacher")))
    assert (base.dimensions, base.max_seq_length, base.int8) == (24, prompt_eol.LONGEST, None)
    home.dataset.add(records(make_pairs(90)))
    trained = home.published(home.run(plan(home.dataset, 1, "teacher"), learning_rate=1e-3))
    assert (trained.recipe["teacher_embeddings"], trained.training["teacher_embeddings"]) == (0, 0), "for static ones"
    vectors = [encoder.encode(encoder.load(str(home.store.path(one.id)), "test"), TEXTS) for one in (base, trained)]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
