"""Trains the layers of the compact student (`services/trainer/models/compact.py`) by similarity distillation.

Its cosines learn to order pairs of sentences as the teacher's do (Park et al. 2019), the nearest pairs twice: there a
search decides. Sentences are the corpus' and those of the archived pair sets. What was written for one sentence stays
in one batch: such sentences share words and differ in meaning, which a mean of words can't tell. Labels are not used.
"""

import hashlib
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from experiments import agreement, pair_sets
from services.trainer.distillation import embedding_cache, transformer_similarity
from services.trainer.distillation.corpus import corpus_of
from services.trainer.distillation.transformer_similarity import Sentences
from services.trainer.evaluation.sts import Row
from services.trainer.models import adapter, compact, encoder
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.students import locate

log = logging.getLogger(__name__)

HELD_OUT_SENTENCES, HELD_OUT_GROUPS = 1_000, 300
"""What the agreement with the teacher is measured on, and not trained on."""
LOG_STEPS, MEASURE_STEPS = 50, 300


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how strongly."""

    groups: int = 6_500
    """Sentences whose pairs are used, of 9,714."""
    epochs: float = 5
    learning_rate: float = 1e-3
    batch: int = 256
    seed: int = 0
    placebo: bool = False
    """Whether each sentence gets another one's teacher embedding: what is learnt then is no meaning."""


def train(teacher: Path, cache: Path, file: Path, config: TrainingConfig) -> dict[str, Any]:
    """Train the layers, write them to `file`, and measure: what is measured, before and after.

    Teacher embeddings are kept in `cache`: interrupted, the next call goes on with them. Raises `Fatal`.
    """
    table = encoder.token_table(teacher)
    static = encoder.load(locate.locate("default", str(teacher), cache.parent), "student")
    model = compact.student(static.tokenizer, encoder.token_embeddings(static))
    sentences, held_out, pairs = _sentences(teacher, cache, config)
    lookup = dict(zip(sentences.texts, sentences.targets.numpy(), strict=True))
    measure = agreement.measure(lambda texts: np.stack([lookup[text] for text in texts]), held_out, {"pairs": pairs})
    facts = {"static": measure(lambda texts: encoder.encode(static, texts))}
    facts["untrained"] = measure(lambda texts: encoder.encode(model, texts))
    log.info("before training: %s", facts)
    used = _without(sentences, {*held_out, *(text for one, other, _ in pairs for text in (one, other))})
    digest = hashlib.sha256("\n".join(used.texts).encode()).hexdigest()
    total, began = 0.0, time.monotonic()
    for step, loss in enumerate(fit(model, used, config), 1):
        total += loss
        if step % LOG_STEPS == 0:
            log.info("step %d, %.0f s, loss %.4f", step, time.monotonic() - began, total / LOG_STEPS)
            total = 0.0
        if step % MEASURE_STEPS == 0:
            log.info("held out: %s", measure(lambda texts: encoder.encode(model, texts)))
    facts["trained"] = measure(lambda texts: encoder.encode(model, texts))
    log.info("held out: %s", facts["trained"])
    made_of = {"sentences": digest, "config": repr(config)}
    compact.save_layers(model, encoder.token_embeddings(static), table, made_of, file)
    return {"config": repr(config), "sentences": len(used.texts), "digest": digest, **facts}


def _sentences(teacher: Path, cache: Path, config: TrainingConfig) -> tuple[Sentences, list[str], list[Row]]:
    """All sentences, and of them the ones that measure: single ones, and pairs."""
    table = encoder.token_table(teacher)
    corpus, adapted = corpus_of(table), adapter.adapter_of(table)
    assert corpus is not None, "the default teacher wrote one"
    assert adapted is not None, "the default teacher has one"
    known = set(corpus.texts)
    rows = sorted({row for name in pair_sets.archived_sets() for row in pair_sets.read(cache / "pairs", name)})
    by_anchor = [(anchor, list(group)) for anchor, group in groupby(rows, key=lambda row: row[0])]
    random.Random(config.seed).shuffle(by_anchor)
    by_anchor = by_anchor[: config.groups]
    written = [text for anchor, group in by_anchor for text in (anchor, *(row[1] for row in group))]
    written = [text for text in dict.fromkeys(written) if text not in known]
    log.info("teacher embeddings of %d sentences", len(written))
    file = cache / f"teacher-embeddings-{locate.identity(teacher)}.npz"
    embeddings = embedding_cache.encode_cached(
        written, file, lambda: PromptEOLEncoder(teacher).encode, lambda count: log.info("%d embedded", count)
    )
    texts = [*corpus.texts, *written]
    targets = np.concatenate([corpus.embeddings, embeddings]) - adapted.centre.numpy()
    places = {text: number for number, text in enumerate(texts)}
    free, groups = set(range(len(texts))), []
    for anchor, group in by_anchor:
        own = [places[text] for text in dict.fromkeys((anchor, *(row[1] for row in group))) if places[text] in free]
        free.difference_update(own)
        groups.append(own)
    groups += [[number] for number in sorted(free)]
    order = np.random.default_rng(config.seed).permutation(len(corpus.texts))[:HELD_OUT_SENTENCES]
    measured = [row for _, group in by_anchor[:HELD_OUT_GROUPS] for row in group]
    units = functional.normalize(torch.from_numpy(targets.astype(np.float32)), dim=-1)
    return Sentences(texts, units, groups), [corpus.texts[number] for number in order], measured


def _without(sentences: Sentences, held_out: set[str]) -> Sentences:
    kept = [number for number, text in enumerate(sentences.texts) if text not in held_out]
    places = {number: place for place, number in enumerate(kept)}
    groups = [[places[number] for number in group if number in places] for group in sentences.groups]
    return Sentences([sentences.texts[number] for number in kept], sentences.targets[kept], [g for g in groups if g])


def fit(model: Any, sentences: Sentences, config: TrainingConfig) -> Iterator[float]:
    """Train in place; yields the loss of each step."""
    if config.placebo:
        order = torch.randperm(len(sentences.targets), generator=torch.Generator().manual_seed(config.seed))
        sentences = sentences._replace(targets=sentences.targets[order])
    steps = int(config.epochs * len(sentences.texts) / config.batch)
    distillation = transformer_similarity.TrainingConfig(steps, config.learning_rate, config.batch, config.seed)
    parameters = list(compact.trained_parameters(model).values())
    return transformer_similarity.distill_similarities(model, parameters, sentences, distillation)
