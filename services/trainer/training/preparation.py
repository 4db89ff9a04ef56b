"""What a student takes before it trains: the teacher's own students its embeddings, and each the terms of a corpus."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.distillation import corpus, corpus_terms, embedding_cache, ridge
from services.trainer.distillation.transformer_similarity import (
    Sentences,
    TrainingConfig,
    distill_similarities,
    mixture,
)
from services.trainer.models import adapter, compact, encoder
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Embeddings, Table
from services.trainer.training.retrieval import Corpus

MOST_EMBEDDED = 4_000
"""Passages that a transformer embeds for the map of its vectors: ten for each of its dimensions are plenty."""
OLD_SHARE = 1.0
"""The least length of a student's old vectors beside those that a round's texts give it: less of them, and cosines of
general text are lost (docs/quality.md)."""
EPOCHS, MOST_STEPS, BATCH, SEED = 10, 400, 256, 0
"""Of a transformer's distillation (docs/quality.md)."""
COMPACT_RATE, LEARNING_RATE = 3e-4, 5e-5
"""Of `compact`, and of another transformer."""
OWN_SHARE = 0.5
"""Of another transformer's own cosines in those that it learns: it was trained on what the teacher never saw."""
REPLAY = 1
"""Sentences of the shipped corpus beside each of a dataset's, so that general text isn't forgotten."""


def fit_to_teacher(
    model: Any,
    texts: Sequence[str],
    source: Path,
    file: Path,
    find: embedding_cache.Find,
    is_compact: bool,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, float]:
    """Bring a student nearer to the teacher in `source` on at least `ridge.FEWEST` texts, whose teacher embeddings
    `file` keeps; what the manifest says of it. `find` as in `embedding_cache.encode_cached`.

    A static student is fitted by regression, a transformer by similarity distillation from the default teacher:
    `is_compact` learns its cosines, another one a mixture of them and its own.
    """
    began = time.monotonic()
    teacher_embeddings = embedding_cache.encode_cached(
        texts,
        file,
        lambda: PromptEOLEncoder(source).encode,
        lambda done: on_progress("embedding", done, len(texts)),
        find,
    )
    if encoder.is_static(model):
        bag = encoder.bag_of_tokens_matrix(model, texts)
        fitted = ridge.fit_to_teacher(encoder.token_embeddings(model), bag, teacher_embeddings, OLD_SHARE)
        encoder.set_token_embeddings(model, ridge.rotate_to_principal_axes(fitted, bag))
    else:
        table = encoder.token_table(source)
        _distill(model, texts, teacher_embeddings, table, is_compact, partial(on_progress, "distilling"))
    return {"teacher_embeddings": len(texts), "teacher_embeddings_s": round(time.monotonic() - began, 1)}


def _distill(
    model: Any,
    texts: Sequence[str],
    embeddings: Embeddings,
    table: Table,
    is_compact: bool,
    on_progress: Callable[[int, int], None],
) -> None:
    general, adapted = corpus.corpus_of(table), adapter.adapter_of(table)
    assert general is not None, "the default teacher wrote one"
    assert adapted is not None, "the default teacher has one"
    replayed = np.random.default_rng(SEED).permutation(len(general.texts))[: REPLAY * len(texts)]
    texts = [*texts, *(general.texts[number] for number in replayed)]
    centred = np.concatenate([embeddings, general.embeddings[replayed]]).astype(np.float32) - adapted.centre.numpy()
    targets = torch.from_numpy(centred)
    if is_compact:
        rate, parameters = COMPACT_RATE, list(compact.trained_parameters(model).values())
    else:
        targets = mixture(torch.from_numpy(encoder.encode(model, texts)), targets, OWN_SHARE)
        rate, parameters = LEARNING_RATE, [one for one in model.parameters() if one.requires_grad]
        texts = [encoder.default_prompt(model) + text for text in texts]
    sentences = Sentences(texts, targets, [[number] for number in range(len(texts))])
    steps = min(math.ceil(EPOCHS * len(texts) / BATCH), MOST_STEPS)
    config = TrainingConfig(steps, rate, BATCH, SEED)
    for step, _ in enumerate(distill_similarities(model, parameters, sentences, config), 1):
        on_progress(step, steps)


def add_corpus_terms(model: Any, found: Corpus) -> dict[str, float]:
    """Give the student the terms of a corpus; what the manifest says of it."""
    static = encoder.is_static(model)
    began, texts = time.monotonic(), found.texts(corpus_terms.MOST if static else MOST_EMBEDDED)
    if len(texts) < corpus_terms.FEWEST:
        return {}
    passages, general = (encoder.bag_of_tokens_matrix(model, some) for some in (texts, corpus.sentences()))
    if static:
        table = corpus_terms.add_corpus_terms(encoder.token_embeddings(model), passages, general)
        encoder.set_token_embeddings(model, table)
    else:
        encoder.add_linear_map(model, corpus_terms.corpus_linear_map(encoder.encode(model, texts), passages, general))
    return {"corpus_terms": len(texts), "corpus_terms_s": round(time.monotonic() - began, 1)}
