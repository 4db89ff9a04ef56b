"""Where base students come from, and what can't be one."""

import json
from pathlib import Path

import numpy as np
import pytest

from services.trainer.models import encoder
from services.trainer.models.static import word_vectors
from services.trainer.students import locate, names
from shared.errors import Fatal
from tests.support.students import DIMENSIONS, write_teacher


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_teacher(tmp_path / "teacher", tied=request.param)
    return tmp_path / "teacher"


def test_the_default_student_is_made_of_the_teachers_token_table(teacher: Path, tmp_path: Path) -> None:
    made = locate.locate("default", str(teacher), tmp_path / "cache")
    model = encoder.load(made, names.SETTING)
    table = encoder.token_table(teacher)
    expected = word_vectors(table, encoder.tokens(encoder.tokenizer(teacher), len(table)))
    [vector] = encoder.encode(model, ["noun7 sees"])
    tokens = encoder.tokenizer(teacher)("noun7 sees", add_special_tokens=False)["input_ids"]
    np.testing.assert_allclose(vector, expected[tokens].mean(axis=0), rtol=1e-5)
    assert encoder.is_static(model)
    assert encoder.max_seq_length(model) is None
    assert encoder.dimensions(model) == expected.shape[1] == 24 - 3


def test_the_table_is_the_one_the_whole_model_has(teacher: Path) -> None:
    from transformers import AutoModel

    whole = AutoModel.from_pretrained(teacher).get_input_embeddings().weight.detach().float().numpy()
    np.testing.assert_array_equal(encoder.token_table(teacher), whole)


def test_it_is_made_once_a_teacher_and_no_half_of_it_is_used(teacher: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / ".making-student-dead").mkdir(parents=True)
    first = Path(locate.locate("default", str(teacher), cache))
    made = (first / "model.safetensors").stat()
    assert locate.locate("default", str(teacher), cache) == str(first)
    assert (first / "model.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    assert not list(cache.glob(".making-*"))
    (teacher / "config.json").touch()
    (teacher / "model.safetensors").touch()
    assert locate.locate("default", str(teacher), cache) != str(first)


def test_a_plain_encoder_gets_mean_pooling(plain_encoder: Path) -> None:
    model = encoder.load(locate.locate(str(plain_encoder), "default", plain_encoder), names.SETTING)
    tokens = model[0].auto_model(**model.tokenizer(["a noun7 sees"], return_tensors="pt")).last_hidden_state
    [vector] = encoder.encode(model, ["a noun7 sees"])
    np.testing.assert_allclose(vector, tokens[0].mean(dim=0).detach().numpy(), atol=1e-5)
    assert not encoder.is_static(model)
    assert (encoder.dimensions(model), encoder.max_seq_length(model)) == (DIMENSIONS, 64)


def test_a_static_student_is_known_without_loading_it(static_student: Path, plain_encoder: Path) -> None:
    assert [names.is_static(str(name)) for name in ("default", static_student, plain_encoder, "a/b")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_what_is_no_model_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"PAIRWRIGHT_STUDENT: .* holds none of modules\.json, config\.json"):
        names.check(str(tmp_path))
    with pytest.raises(Fatal, match="PAIRWRIGHT_STUDENT: there is no folder"):
        names.check("./nowhere")


def test_a_model_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(Fatal, match="PAIRWRIGHT_STUDENT: can't load") as caught:
        encoder.load(str(tmp_path), names.SETTING)
    assert "\n" not in str(caught.value)


def test_a_student_without_a_padding_token_is_one_line_that_names_the_setting(teacher: Path) -> None:
    file = teacher / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": None}))
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_STUDENT: can't load .* no padding token; set pad_token in"):
        encoder.load(str(teacher), names.SETTING)
