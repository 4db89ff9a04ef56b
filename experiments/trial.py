"""One trial: make the student, train it with the trainer's own parts, and measure it."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from experiments import initial, pair_sets
from experiments.configuration import Trial
from services.trainer.distillation import embedding_cache, ridge
from services.trainer.evaluation.sts import Row, StsFile, score, unit
from services.trainer.models import encoder
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Embeddings
from services.trainer.students import locate
from services.trainer.training import fit, split
from services.trainer.training.recipe import CLASSES, Recipe
from shared.errors import Fatal

NO_CHECKPOINTS_S = 1e9
MADE = {"default": "default", "one-word": "teacher"}
"""Students that the trainer itself makes, by their names here and there."""


@dataclass(frozen=True)
class Bench:
    """What all trials of a run share."""

    teacher: Path
    sets: Mapping[str, list[Row]]
    human: Mapping[str, StsFile]
    """Human-scored sets. They measure; no choice may look at them."""
    cache: Path
    """Takes the teacher's views of sentences, and the student that is made of the teacher."""
    sentences: Sequence[str] = ()
    """Further sentences to show to the teacher."""

    def look(self, texts: Sequence[str]) -> Embeddings:
        """The teacher's views of `texts`, [texts, hidden]."""
        file = self.cache / f"views-{locate.identity(self.teacher)}.npz"
        return embedding_cache.encode_cached(texts, file, lambda: PromptEOLEncoder(self.teacher).encode, lambda _: None)


def run(trial: Trial, bench: Bench) -> dict[str, Any]:
    """Train and measure. Spearman x 100: `judges` on the measuring pair sets, `dev` on the training pairs' held-out
    side, `human` on human-scored sets."""
    began = time.monotonic()
    if len(bench.sentences) < trial.sentences:
        raise Fatal(f"--sentences: a trial asks for {trial.sentences:,}, and there are {len(bench.sentences):,}")
    train = [row for name in trial.train for row in bench.sets[name]]
    train = pair_sets.chosen(train, trial.pairs, trial.filters)
    if trial.shuffled:
        train = pair_sets.shuffled(train, trial.seed)
    if trial.soft:
        train = _softened(train, trial.soft, bench)
    model = _student(trial, bench, train)
    encode = partial(encoder.encode, model)
    dev, steps = _fine_tune(model, trial, train, bench) if train else ([], 0)
    judges = {name: score(encode, pair_sets.apart(bench.sets[name], train)) for name in trial.judges}
    return {
        "pairs": len(train),
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
        "dev": round(score(encode, dev), 2) if dev else None,
        "judges": {name: round(value, 2) for name, value in judges.items()},
        "judged": round(float(np.mean(list(judges.values()))), 2) if judges else None,
        "human": {name: round(score(encode, file.rows), 2) for name, file in bench.human.items()},
    }


def _student(trial: Trial, bench: Bench, train: list[Row]) -> Any:
    if trial.student == "static":
        return _static(trial, bench, train)
    if trial.student in MADE:
        return encoder.load(locate.locate(MADE[trial.student], str(bench.teacher), bench.cache), "student")
    if trial.student.startswith("teacher-"):
        return _first_layers(bench.teacher, int(trial.student.removeprefix("teacher-")))
    return encoder.load(os.path.expandvars(trial.student), "student")


def _static(trial: Trial, bench: Bench, train: list[Row]) -> Any:
    tokenizer = encoder.tokenizer(bench.teacher)
    texts = sorted({text for one, other, _ in train for text in (one, other)})
    table = initial.vectors(trial.initial, bench.teacher, tokenizer, texts)
    if trial.initial.within is not None:
        same = [row for row in train if row[2] >= split.POSITIVE]
        if not same:
            raise Fatal("initial.within: the training pairs have none of score 1")
        model = _module(tokenizer, table)
        left, right = (
            unit(encoder.encode(model, texts)).astype(np.float64)
            for texts in zip(*[row[:2] for row in same], strict=True)
        )
        table = initial.suppress(table, (left, right), trial.initial.within)
    return _module(tokenizer, table)


def _module(tokenizer: Any, table: Any) -> Any:
    return encoder.static_student(tokenizer, np.ascontiguousarray(table, dtype=np.float32))


def _first_layers(teacher: Path, count: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        initial.first_layers(teacher, count).save_pretrained(folder)
        tokenizer = encoder.tokenizer(teacher)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder)
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")], device="cpu"
    )


def _fine_tune(model: Any, trial: Trial, train: list[Row], bench: Bench) -> tuple[list[Row], int]:
    """Train in place; the dev side and the number of steps."""
    recipe = _recipe(trial)
    folder = Path(tempfile.mkdtemp(prefix="pairwright-trial-"))
    try:
        found = split.prepare(pair_sets.stored(train), recipe, folder / "rows")
        file = folder / "rows" / split.TRAIN
        texts = [
            *(embedding_cache.sample_texts(file, trial.views) if trial.views else []),
            *bench.sentences[: trial.sentences],
        ]
        if texts:
            _learn_views(model, texts, bench)
        if not trial.epochs:
            return [], 0
        work = fit.TrainingInputs(
            train=file,
            eval_pairs=found.eval_pairs if trial.select == "dev" else [],
            folder=folder / "checkpoints",
            checkpoint_s=NO_CHECKPOINTS_S,
        )
        outcome = fit.train(model, recipe, work, _silent)
        return found.dev, outcome.steps
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _learn_views(model: Any, texts: Sequence[str], bench: Bench) -> None:
    """As the trainer's round does it before it trains."""
    table = ridge.fit_to_teacher(
        encoder.token_embeddings(model), encoder.bag_of_tokens_matrix(model, texts), bench.look(texts)
    )
    encoder.set_token_embeddings(model, table)


def _softened(train: list[Row], share: float, bench: Bench) -> list[Row]:
    """Scores that are in part the cosine of the teacher's views."""
    texts = sorted({text for one, other, _ in train for text in (one, other)})
    seen = dict(zip(texts, ridge.distillation_target(bench.look(texts)), strict=True))
    cosine = [float(np.clip(seen[one] @ seen[other], 0, 1)) for one, other, _ in train]
    return [
        (one, other, (1 - share) * score + share * near)
        for (one, other, score), near in zip(train, cosine, strict=True)
    ]


def _recipe(trial: Trial) -> Recipe:
    return Recipe(
        preset="experiment",
        teacher_embeddings=trial.views,
        loss=CLASSES[trial.loss],
        matryoshka=(),
        epochs=trial.epochs,
        max_steps=None,
        learning_rate=trial.learning_rate,
        batch_size=trial.batch_size,
        gradient_accumulation=1,
        warm_up=0.1,
        smoothing=trial.smoothing,
        random_pairs=trial.random_pairs,
        most_per_label=None,
        evaluate_every=None,
        early_stop=None,
        seed=trial.seed,
    )


_silent: Callable[[Any], None] = lambda _: None  # noqa: E731
