"""Training the compact student's layers: real distillation on a few hundred sentences, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from experiments import agreement
from experiments.__main__ import app
from services.trainer.distillation.corpus import corpus_of
from services.trainer.distillation.transformer_similarity import Sentences
from services.trainer.models import adapter, compact, encoder
from services.trainer.students import locate
from shared.settings import Settings, load
from shared.teacher import default_teacher

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("placebo", [False, True])
def test_layers_learn_the_teachers_cosines_and_nothing_from_a_placebo(placebo: bool) -> None:
    from experiments import compact as training

    cache = load(Settings).cache_dir
    table = encoder.token_table(default_teacher(cache))
    corpus, adapted = corpus_of(table), adapter.adapter_of(table)
    assert corpus is not None
    assert adapted is not None
    texts = corpus.texts[:512]
    targets = functional.normalize(torch.from_numpy(corpus.embeddings[:512] - adapted.centre.numpy()), dim=-1)
    static = encoder.load(locate.locate("default", "default", cache), "student")
    model = compact.student(static.tokenizer, encoder.token_embeddings(static))
    lookup = dict(zip(texts, targets.numpy(), strict=True))
    measure = agreement.measure(lambda some: np.stack([lookup[text] for text in some]), texts, {})
    before = measure(lambda some: encoder.encode(model, some))
    config = training.TrainingConfig(epochs=5, batch=64, placebo=placebo)
    sentences = Sentences(texts, targets, [[number, number + 1] for number in range(0, 512, 2)])
    assert len(list(training.fit(model, sentences, config))) == 40
    after = measure(lambda some: encoder.encode(model, some))
    gain = after["nearest"] - before["nearest"]
    assert gain < 0 if placebo else gain > 1


def test_the_command_writes_layers_and_says_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "layers.safetensors"
    done = CliRunner().invoke(
        app, ["compact", "--groups", "20", "--epochs", "0.01", "--file", str(file)], catch_exceptions=False
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sentences"] > 33_000
    assert set(result["trained"]) == {"all pairs", "nearest", "pairs"}
    assert abs(result["untrained"]["all pairs"] - result["static"]["all pairs"]) < 2
    assert compact.layers_of(encoder.token_table(default_teacher(load(Settings).cache_dir)), file) is not None
