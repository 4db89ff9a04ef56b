"""Many texts in one pass have the likelihood that each has alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.trainer.models import likelihood
from services.trainer.models.likelihood import Likelihood, Prompt
from shared.errors import Fatal
from tests.support.tiny_teacher import make_tiny_teacher

PROMPT = Prompt(opening='word1 word2\n- "', between='"\n- "', closing='"', longest=6)
GROUPS = [
    ("word3 word4", ["word5", "word6 word7 word8", "word5 word9"]),
    ("word9", ["word1 word1 word1 word1 word1 word1 word1 word1 word1"]),
    ("word2 word3 word4 word5 word6 word7 word8 word9", ["word3", "word4 word2"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize("most_tokens", [20, 1024])
def test_it_is_that_of_each_text_alone(folder: Path, most_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "MOST_TOKENS", most_tokens)
    monkeypatch.setattr(likelihood, "dtype_for", lambda _wanted, _on_gpu: "float32")
    done: list[int] = []
    values = Likelihood(folder, "TEACHER").mean_log_likelihoods(PROMPT, GROUPS, done.append)
    assert done[-1] == len(GROUPS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    for (first, texts), means in zip(GROUPS, values, strict=True):
        for text, mean in zip(texts, means, strict=True):
            before = ids(PROMPT.opening) + ids(first)[: PROMPT.longest] + ids(PROMPT.between)
            after = ids(text)[: PROMPT.longest] + ids(PROMPT.closing)
            with torch.inference_mode():
                logs = torch.log_softmax(model(torch.tensor([before + after])).logits[0].float(), -1)
            alone = [float(logs[len(before) + number - 1, token]) for number, token in enumerate(after)]
            assert mean == pytest.approx(np.mean(alone), abs=1e-4)


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Fatal, match=r"ESTIMATE_TEACHER: can't load .*"):
        Likelihood(tmp_path, "ESTIMATE_TEACHER")
