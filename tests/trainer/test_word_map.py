"""A static student that learns by what its words share."""

from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from services.trainer import encoder
from services.trainer.word_map import WordMap
from tests.trainer.students import DIMENSIONS

TEXTS = ["a noun7 sees noun1", "noun2", "the noun3 sees a noun4 and noun4 sees noun5", ""]


def around(student: SentenceTransformer) -> SentenceTransformer:
    return SentenceTransformer(modules=[WordMap.of(student[0])], device="cpu")


def test_it_begins_as_the_student_that_it_is_made_of(static_student: Path) -> None:
    student = encoder.load(str(static_student), "student")
    np.testing.assert_allclose(encoder.encode(around(student), TEXTS), encoder.encode(student, TEXTS), atol=1e-6)


def test_what_it_learns_folds_into_a_plain_table(static_student: Path) -> None:
    student = encoder.load(str(static_student), "student")
    learner = around(student)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        learner[0].turn.copy_(torch.randn(DIMENSIONS, DIMENSIONS, generator=generator) / 10)
        learner[0].importance.copy_(torch.randn(DIMENSIONS + 1, generator=generator) / 5)
    learned = encoder.encode(learner, TEXTS)
    assert np.abs(learned - encoder.encode(student, TEXTS)).max() > 0.01
    encoder.set_words(student, learner[0].folded().numpy())
    np.testing.assert_allclose(encoder.encode(student, TEXTS), learned, atol=1e-5)


def test_only_what_words_share_learns_and_the_students_own_table_is_left_alone(static_student: Path) -> None:
    student = encoder.load(str(static_student), "student")
    before = encoder.words(student).copy()
    learner = around(student)
    learning = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    assert learning == {"0.turn", "0.importance"}
    optimizer = torch.optim.AdamW([parameter for parameter in learner.parameters() if parameter.requires_grad], lr=0.1)
    vectors = learner(learner.preprocess(TEXTS[:3]))["sentence_embedding"]
    (1 - torch.cosine_similarity(vectors[0], vectors[1], dim=0)).backward()
    optimizer.step()
    assert learner[0].turn.abs().sum() > 0
    assert learner[0].importance.abs().sum() > 0
    np.testing.assert_array_equal(encoder.words(learner), before)
    np.testing.assert_array_equal(encoder.words(student), before)


def test_a_checkpoint_of_it_can_be_read(static_student: Path, tmp_path: Path) -> None:
    learner = around(encoder.load(str(static_student), "student"))
    learner.save(str(tmp_path), create_model_card=False)
    found = WordMap.load(str(tmp_path))
    np.testing.assert_array_equal(found.embedding.weight.numpy(), encoder.words(learner))
