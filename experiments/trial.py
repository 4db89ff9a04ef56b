"""One trial: make the student, train it with the trainer's own parts, and measure it."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import adapter, agreement, pair_sets
from experiments.configuration import Trial
from experiments.fine_tuning import fine_tune, make_recipe
from services.trainer.distillation import embedding_cache, ridge, similarity
from services.trainer.distillation.corpus import corpus_of
from services.trainer.evaluation.sts import Encode, Row, StsFile, score
from services.trainer.models import encoder, static
from services.trainer.models.adapter import adapter_of
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Embeddings
from services.trainer.students import locate
from shared.errors import Fatal
from shared.settings import MADE_STUDENTS

CORPUS_ORDER = 5
"""Seed of the order in which parts of the corpus are taken."""


@dataclass(frozen=True)
class Bench:
    """What all trials of a run share."""

    teacher: Path
    sets: Mapping[str, list[Row]]
    human: Mapping[str, StsFile]
    """Human-scored sets. They measure; no choice may look at them."""
    cache: Path
    """Takes teacher embeddings, students that the trainer makes, and trained adapters."""
    sentences: Sequence[str] = ()
    """Sentences over all pairs of which the agreement with the teacher is measured; it is not measured without them."""

    @cached_property
    def token_table(self) -> static.Table:
        """The teacher's input embeddings, [tokens, hidden]."""
        return encoder.token_table(self.teacher)

    @cached_property
    def centre(self) -> static.Table:
        """What all teacher embeddings have in common, [hidden]. Raises `Fatal` for a teacher without an adapter."""
        trained = adapter_of(self.token_table)
        if trained is None:
            raise Fatal(f"{self.teacher}: only the default teacher has a corpus and an adapter")
        centre: static.Table = trained.centre.numpy()
        return centre

    def teacher_embeddings(self, texts: Sequence[str]) -> Embeddings:
        """As they are, [texts, hidden], from the cache as far as they are there."""
        file = self.cache / f"teacher-embeddings-{locate.identity(self.teacher)}.npz"
        return embedding_cache.encode_cached(texts, file, lambda: PromptEOLEncoder(self.teacher).encode, lambda _: None)

    @cached_property
    def agreement(self) -> Any:
        """Measures a student's agreement with the teacher."""
        return agreement.measure(lambda texts: self.teacher_embeddings(texts) - self.centre, self.sentences, self.sets)


def run(trial: Trial, bench: Bench) -> dict[str, Any]:
    """Train and measure. Spearman x 100: `eval_pairs` on the measuring pair sets and `mean` of those, `dev` on the
    training pairs' held-out side, `agreement` with the teacher, `human` on human-scored sets."""
    began = time.monotonic()
    train = pair_sets.sample([row for name in trial.train for row in bench.sets[name]], trial.pairs)
    if trial.shuffled:
        train = pair_sets.shuffle_scores(train, trial.seed)
    encode, facts = (_adapter if trial.student == "adapter" else _student)(trial, bench, train)
    dev = facts.pop("dev", [])
    sets = {name: pair_sets.without_sentences_of(train, bench.sets[name]) for name in trial.eval_pairs}
    scores = {name: score(encode, rows) for name, rows in sets.items()}
    return {
        "trial": asdict(trial),
        "pairs": len(train),
        **facts,
        "seconds": round(time.monotonic() - began, 1),
        "dev": round(score(encode, dev), 2) if dev else None,
        "eval_pairs": {name: round(value, 2) for name, value in scores.items()},
        "mean": round(float(np.mean(list(scores.values()))), 2) if scores else None,
        "agreement": bench.agreement(encode) if bench.sentences else {},
        "human": {name: round(score(encode, file.rows), 2) for name, file in bench.human.items()},
    }


def _adapter(trial: Trial, bench: Bench, train: list[Row]) -> tuple[Encode, dict[str, Any]]:
    """Train an adapter and keep it in the cache."""
    student = adapter.AdapterStudent(bench.teacher, trial.seed)
    losses = adapter.train(student, train, trial)
    digest = hashlib.sha256(repr(trial).encode()).hexdigest()[:16]
    file = bench.cache / f"adapter-{digest}.safetensors"
    student.save(file)
    return student.encode, {"steps": len(losses), "adapter": str(file)}


def _student(trial: Trial, bench: Bench, train: list[Row]) -> tuple[Encode, dict[str, Any]]:
    if trial.student == "static":
        model = _static(trial, bench)
    elif trial.student in MADE_STUDENTS:
        model = encoder.load(locate.locate(trial.student, str(bench.teacher), bench.cache), "student")
    else:
        model = encoder.load(os.path.expandvars(trial.student), "student")
    dev, steps = _fine_tune(model, trial, train, bench) if train else ([], 0)
    return partial(encoder.encode, model), {"steps": steps, "dev": dev}


def _static(trial: Trial, bench: Bench) -> Any:
    """A static student of the token table, which learns from a part of the corpus as the default student does."""
    tokenizer, table = encoder.tokenizer(bench.teacher), bench.token_table
    model = encoder.static_student(tokenizer, table)
    options = trial.corpus
    if not options.sentences:
        return model
    corpus, centre = corpus_of(table), bench.centre
    assert corpus is not None, "the teacher that has an adapter has a corpus"
    part = np.random.default_rng(CORPUS_ORDER).permutation(len(corpus.texts))[: options.sentences]
    texts, embeddings = [corpus.texts[number] for number in part], corpus.embeddings[part]
    if options.regression:
        _fit_to_teacher(model, texts, embeddings)
    if options.shuffled:
        embeddings = np.random.default_rng(trial.seed).permutation(embeddings)
    config = similarity.TrainingConfig(options.learning_rate, options.epochs, seed=trial.seed)
    if options.epochs:
        similarity.distill_similarities(model, texts, embeddings - centre, config)
    return model


def _fit_to_teacher(model: Any, texts: Sequence[str], embeddings: Embeddings) -> None:
    table, bag_of_tokens = encoder.token_embeddings(model), encoder.bag_of_tokens_matrix(model, texts)
    encoder.set_token_embeddings(model, ridge.fit_to_teacher(table, bag_of_tokens, embeddings))


def _fine_tune(model: Any, trial: Trial, train: list[Row], bench: Bench) -> tuple[list[Row], int]:
    def fit_to_teacher(file: Path) -> None:
        if trial.teacher_embeddings:
            texts = embedding_cache.sample_texts(file, trial.teacher_embeddings)
            _fit_to_teacher(model, texts, bench.teacher_embeddings(texts))

    recipe = make_recipe(
        trial.loss,
        trial.learning_rate,
        trial.epochs,
        trial.seed,
        teacher_embeddings=trial.teacher_embeddings,
        batch_size=trial.batch_size,
        smoothing=trial.smoothing,
        random_pairs=trial.random_pairs,
    )
    select, has_pairs = trial.select == "dev", trial.epochs > 0
    return fine_tune(model, recipe, train, select=select, before=fit_to_teacher, has_pairs=has_pairs)
