"""The adapter: loaded for its own teacher only, and added to its weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.trainer.models import adapter, encoder
from services.trainer.models.prompt_eol import PromptEOLEncoder, write_student
from services.trainer.models.static import fingerprint
from services.trainer.students.names import SETTING
from tests.support.pairs import make_pairs
from tests.support.students import default_encoder, write_teacher

LAYER = "layers.0.mlp.up_proj"


def test_the_default_teacher_has_one_for_every_linear_layer_that_is_run() -> None:
    default = default_encoder()
    assert default.adapter is not None
    linear = {name for name, part in default.model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(default.adapter.layers) == linear
    assert all(up.norm() > 0 and down.norm() > 0 for up, down in default.adapter.layers.values())


def test_it_is_added_to_the_weights_of_its_own_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, other = tmp_path / "teacher", tmp_path / "other"
    write_teacher(teacher, tied=True, layers=2)
    write_teacher(other, tied=True, layers=2, seed=8)
    texts = [pair.sentence1 for pair in make_pairs(12)]
    plain, plain_other = PromptEOLEncoder(teacher), PromptEOLEncoder(other)
    generator = torch.Generator().manual_seed(1)
    up, down = (torch.randn(shape, generator=generator) for shape in ((32, 3), (3, 24)))
    centre = torch.randn(24, generator=generator)
    monkeypatch.setattr(adapter, "FILE", tmp_path / "adapter.safetensors")
    tensors = {f"{LAYER}.up": up, f"{LAYER}.down": down, adapter.CENTRE: centre}
    save_file(tensors, adapter.FILE, {"teacher": fingerprint(encoder.token_table(teacher))})

    adapted = PromptEOLEncoder(teacher)
    before, after = (model.model.get_submodule(LAYER).weight for model in (plain, adapted))
    torch.testing.assert_close(after, before + up @ down)
    assert np.abs(adapted.encode(texts) - plain.encode(texts)).max() > 0.01
    assert PromptEOLEncoder(other).adapter is None
    np.testing.assert_array_equal(PromptEOLEncoder(other).encode(texts), plain_other.encode(texts))

    write_student(teacher, made := tmp_path / "made")
    found = encoder.encode(encoder.load(str(made), SETTING), texts)
    np.testing.assert_allclose(found, adapted.encode(texts) - centre.numpy(), atol=1e-4)
