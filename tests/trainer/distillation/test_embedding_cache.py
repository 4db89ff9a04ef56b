"""The teacher's views of sentences: a real teacher, each sentence looked at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.trainer.dataset.arrow import TableWriter
from services.trainer.distillation import embedding_cache
from services.trainer.models import encoder, prompt_eol
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.students import locate
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


class Eyes:
    """A teacher, and what it was shown."""

    def __init__(self, teacher: Path) -> None:
        self.teacher, self.shown = teacher, list[str]()

    def load(self) -> embedding_cache.Encode:
        look = PromptEOLEncoder(self.teacher).views

        def counted(texts: Sequence[str]) -> embedding_cache.Embeddings:
            self.shown += texts
            found: embedding_cache.Embeddings = look(texts)
            return found

        return counted


def test_a_view_is_the_state_before_the_one_word(teacher: Path) -> None:
    """Against the whole model, one sentence at a time and with a prompt written by hand; the first 4 of 5 layers."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    found = PromptEOLEncoder(teacher).views(TEXTS)
    for text, view in zip(TEXTS, found, strict=True):
        prompt = f'This sentence: "{text}" means in one word: "'
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        states = model(ids, output_hidden_states=True).hidden_states[round(0.9 * 5)]
        np.testing.assert_allclose(view, model.model.norm(states)[0, -1].detach().numpy(), atol=1e-5)


def test_the_teacher_as_a_student_sees_the_same_less_what_all_views_share(teacher: Path, tmp_path: Path) -> None:
    made = locate.locate("teacher", str(teacher), tmp_path)
    model = encoder.load(made, locate.SETTING)
    assert not encoder.is_static(model)
    assert encoder.max_seq_length(model) == prompt_eol.LONGEST
    apart = PromptEOLEncoder(teacher).views(TEXTS) - encoder.encode(model, TEXTS)
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), atol=1e-5)
    assert np.abs(apart).max() > 0
    assert locate.locate("teacher", str(teacher), tmp_path) == made
    assert locate.locate("default", str(teacher), tmp_path) != made


def test_a_long_text_is_cut_and_the_prompt_is_not(teacher: Path) -> None:
    tokenizer = prompt_eol.prompted_tokenizer(teacher)
    whole, cut = (tokenizer("noun1 " * 500, **how)["input_ids"] for how in ({}, prompt_eol.HOW))
    ending = len(tokenizer(prompt_eol.SUFFIX, add_special_tokens=False)["input_ids"]) // 2
    assert (len(cut), len(whole) > 500) == (prompt_eol.LONGEST, True)
    assert cut[-ending:] == whole[-ending:]


def test_each_sentence_is_looked_at_once_through_deaths_and_damage(teacher: Path, tmp_path: Path) -> None:
    file, eyes, said = tmp_path / "views.npz", Eyes(teacher), list[int]()
    first = embedding_cache.encode_cached(TEXTS[:2], file, eyes.load, said.append)
    again = embedding_cache.encode_cached([*TEXTS, TEXTS[0]], file, eyes.load, said.append)
    assert sorted(eyes.shown) == sorted(TEXTS)
    assert said[-1] == 4
    np.testing.assert_array_equal(again[:2], first)
    np.testing.assert_array_equal(again[3], first[0])
    np.testing.assert_allclose(first, PromptEOLEncoder(teacher).views(TEXTS[:2]), atol=0.01)
    file.write_bytes(file.read_bytes()[:100])
    assert embedding_cache.encode_cached(TEXTS, file, eyes.load, said.append).shape == again[:3].shape
    assert len(eyes.shown) == 2 * len(TEXTS)


def test_what_was_looked_at_before_a_death_is_kept(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "AT_ONCE", 1)
    file, look = tmp_path / "views.npz", PromptEOLEncoder(teacher).views

    def die(texts: Sequence[str]) -> embedding_cache.Embeddings:
        if texts == TEXTS[2:]:
            raise KeyboardInterrupt
        found: embedding_cache.Embeddings = look(texts)
        return found

    with pytest.raises(KeyboardInterrupt):
        embedding_cache.encode_cached(TEXTS, file, lambda: die, lambda _: None)
    eyes = Eyes(teacher)
    embedding_cache.encode_cached(TEXTS, file, eyes.load, lambda _: None)
    assert eyes.shown == TEXTS[2:]


def test_nothing_is_loaded_when_all_is_known(teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "views.npz"
    embedding_cache.encode_cached(TEXTS, file, Eyes(teacher).load, lambda _: None)

    def never() -> embedding_cache.Encode:
        raise AssertionError("the teacher was loaded")

    assert len(embedding_cache.encode_cached(TEXTS, file, never, lambda _: None)) == len(TEXTS)


def test_a_growing_dataset_shows_mostly_the_same_sentences(tmp_path: Path) -> None:
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


def test_the_teacher_as_a_student_is_published_and_trains(home: Home, teacher: Path, tmp_path: Path) -> None:
    home.settings = home.settings.model_copy(update={"teacher": str(teacher), "cache": tmp_path / "cache"})
    base = home.published(home.run(home.dataset.plan_base(1, "teacher")))
    assert (base.dimensions, base.max_seq_length, base.int8) == (24, prompt_eol.LONGEST, None)
    home.dataset.add(records(make_pairs(90)))
    trained = home.published(home.run(plan(home.dataset, 1, "teacher"), learning_rate=1e-3))
    assert (trained.recipe["views"], trained.training["views"]) == (0, 0), "views are for static students"
    vectors = [encoder.encode(encoder.load(str(home.store.path(one.id)), "test"), TEXTS) for one in (base, trained)]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
