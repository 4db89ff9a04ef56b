"""The paper's claim on this project's models: DINO against unsupervised baselines (Schick & Schütze 2021, Table 1).

Every method starts from the same base encoders, sees the same sentences and trains for the same time. Baselines are
sentence-transformers' own losses, with the batch sizes of their papers. DINO is the trainer's preset `dino`: its pairs,
its smoothing, its random pairs. People's scores are looked at once, at the end of each training; the last step counts.
"""

import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from experiments import pair_sets
from experiments.results import Results
from experiments.table import cell
from services.trainer.dataset.arrow import portions
from services.trainer.evaluation.sts import Encode, Row, StsFile, score, sts_files
from services.trainer.models import encoder, prompt_eol
from services.trainer.models.static import Embeddings
from services.trainer.settings import Preset, TrainerSettings
from services.trainer.training import split
from services.trainer.training.recipe import recipe_for
from shared.errors import first_line
from shared.process import ROOT

GIVEN_SET, DEMO = "stsb.train", ROOT / "scripts" / "demo_sentences.txt"
LOWER_LAYERS = 0.1
"""The share of the teacher's layers that is a base: 3 of 30."""
DROPOUT = 0.1
"""Of every base while it trains: SimCSE's two vectors of a sentence differ by nothing else."""
DELETION = 0.6
"""The share of words that a sentence loses before TSDAE restores it (Wang et al. 2021)."""
DAMAGES = 4
"""States in which TSDAE sees a sentence."""
WARM_UP_STEPS, MOST_STEPS = 10, 1_000_000
NEGLIGIBLE = 1e-9
"""An axis with so small a share of the strongest one's variance is rounding."""
PAPER = {
    "Avg. BERT embeddings": {"stsb.test": 46.35, "sickr.test": 58.40},
    "DINO, STS-x1x2": {"stsb.test": 76.51, "sickr.test": 74.26},
    "DINO, STS-x2": {"stsb.test": 77.82, "sickr.test": 68.09},
}
"""Spearman x 100 of RoBERTa-base on GPT2-XL's pairs, as the paper's Table 1 has them."""

GIVEN, WRITTEN, OURS = "reproduce-given", "reproduce-written", "reproduce-default"
GIVEN_PLAIN, WRITTEN_PLAIN = f"{GIVEN}-plain", f"{WRITTEN}-plain"
SETS = (GIVEN, GIVEN_PLAIN, WRITTEN, WRITTEN_PLAIN, OURS)


def plans(count: int) -> list[dict[str, Any]]:
    """The pair sets as `generation.PairSet` has them: for so many sentences, given or written by the teacher."""
    given, written = {"sentences": [0, count]}, {"num_inputs": count}
    dino, plain = {"task": "sts", "preset": "dino", "seed": 1}, {"decoding": {"decay_constant": 0.0}}
    return [
        {"name": GIVEN, "plan": dino, **given},
        {"name": GIVEN_PLAIN, "plan": dino | plain, **given},
        {"name": WRITTEN, "plan": dino | written},
        {"name": WRITTEN_PLAIN, "plan": dino | written | plain},
        {"name": OURS, "plan": {"task": "sts", "seed": 1}, **given},
    ]


@dataclass(frozen=True)
class Method:
    """One way to train an encoder without a label."""

    rows: Callable[[Sequence[Row], int], dict[str, list[Any]]]
    """Columns to train on, made of a pair set by a seed."""
    loss: Callable[[Any], torch.nn.Module]
    learning_rate: float
    """Of its paper, for thousands of steps."""
    batch: int
    source: str
    """The pair set whose pairs are trained on; of a baseline, whose sentences."""


def _same_twice(pairs: Sequence[Row], _seed: int) -> dict[str, list[Any]]:
    return {"one": _sentences(pairs), "other": _sentences(pairs)}


def _single(pairs: Sequence[Row], _seed: int) -> dict[str, list[Any]]:
    return {"sentence": _sentences(pairs)}


def _damaged(pairs: Sequence[Row], seed: int) -> dict[str, list[Any]]:
    generator = random.Random(seed)

    def damage(text: str) -> str:
        words = text.split()
        return " ".join([word for word in words if generator.random() > DELETION] or [generator.choice(words)])

    texts = [text for text in _sentences(pairs) for _ in range(DAMAGES)]
    return {"damaged": [damage(text) for text in texts], "text": texts}


def _graded(pairs: Sequence[Row], seed: int, preset: Preset) -> dict[str, list[Any]]:
    """The rows that a round of the trainer would train on."""
    recipe = recipe_for(TrainerSettings(preset=preset), static=False, dimensions=0, seed=seed)
    folder = Path(tempfile.mkdtemp(prefix="pairwright-reproduce-"))
    try:
        split.prepare(pair_sets.stored(pairs), recipe, folder)
        rows = [row for portion in portions(folder / split.TRAIN) for row in portion]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {name: [row[place] for row in rows] for place, name in enumerate(("sentence1", "sentence2", "score"))}


def _sentences(pairs: Sequence[Row]) -> list[str]:
    """Each once, in an order that has nothing to do with their pairs."""
    texts = {text for one, other, _ in pairs for text in (one, other)}
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def _denoising(model: Any) -> torch.nn.Module:
    """TSDAE's loss. Raises ValueError for an architecture that has no decoder for it."""
    loss = losses.DenoisingAutoEncoderLoss(model)
    if not any("crossattention" in name for name, _ in loss.decoder.named_modules()):
        raise ValueError("its architecture has no decoder that reads an embedding")
    return loss


def _dino(source: str, preset: Preset = "dino") -> Method:
    return Method(partial(_graded, preset=preset), losses.CosineSimilarityLoss, 2e-5, 32, source)


METHODS: Mapping[str, Method] = {
    "SimCSE": Method(_same_twice, losses.MultipleNegativesRankingLoss, 3e-5, 64, GIVEN),
    "CT": Method(_single, losses.ContrastiveTensionLossInBatchNegatives, 5e-5, 32, GIVEN),
    "TSDAE": Method(_damaged, _denoising, 3e-5, 8, GIVEN),
    "DINO, x1 written": _dino(WRITTEN),
    "the same without self-debiasing": _dino(WRITTEN_PLAIN),
    "DINO, x1 given": _dino(GIVEN),
    "the same without self-debiasing, x1 given": _dino(GIVEN_PLAIN),
    "our default, x1 given": _dino(OURS, "default"),
}
UNTRAINED = ("as it is", "averaged token vectors", "whitening")


@dataclass(frozen=True)
class Trial:
    """A row of the results."""

    base: str
    method: str
    seed: int
    seconds: float
    """Of training; 0 where nothing is trained."""
    rates: float
    """Learning rates, as a multiple of the papers'; 0 where nothing is trained."""
    material: str
    """A digest of what was learnt from, and measured on."""

    @property
    def key(self) -> str:
        """Identifies the row."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def run(
    bases: Mapping[str, str],
    pairs: Mapping[str, Sequence[Row]],
    human: Mapping[str, StsFile],
    seeds: Sequence[int],
    seconds: float,
    rates: float,
    results: Results,
    report: Callable[[str], None],
) -> list[Mapping[str, Any]]:
    """Run what has no result yet, seed by seed; all rows. `bases`: folders by name; `pairs`: by `SETS`."""
    measured = hashlib.sha256(repr(sorted((name, len(file.rows)) for name, file in human.items())).encode()).hexdigest()
    rows = []
    for seed in seeds:
        for base, folder in bases.items():
            for method in (*UNTRAINED, *METHODS) if seed == seeds[0] else METHODS:
                source = METHODS[method].source if method in METHODS else GIVEN
                material = f"{pair_sets.digest(pairs[source])} {measured[:8]}"
                trained = (seconds, rates) if method in METHODS else (0.0, 0.0)
                trial = Trial(base, method, seed, *trained, material)
                if trial.key not in results:
                    began = time.monotonic()
                    outcome = _outcome(trial, folder, pairs[source], human)
                    results.add(trial.key, asdict(trial) | outcome)
                    report(f"{base}, {method}, seed {seed}: {outcome} in {time.monotonic() - began:.0f} s")
                rows.append(results[trial.key])
    return rows


def _outcome(trial: Trial, folder: str, pairs: Sequence[Row], human: Mapping[str, StsFile]) -> dict[str, Any]:
    model = encoder.load(folder, trial.base)
    steps = 0
    encode: Encode = partial(encoder.encode, model)
    if trial.method in METHODS:
        try:
            steps = _train(model, METHODS[trial.method], pairs, trial)
        except ValueError as error:
            if trial.method != "TSDAE":
                raise
            return {"steps": 0, "scores": {}, "problem": first_line(error)}
    elif trial.method == "averaged token vectors":
        encode = partial(averaged, model, encoder.table_of(model[0].auto_model))
    elif trial.method == "whitening":
        encode = whitened(encode, _sentences(pairs))
    return {"steps": steps, "scores": {name: round(score(encode, file.rows), 2) for name, file in human.items()}}


def _train(model: Any, method: Method, pairs: Sequence[Row], trial: Trial) -> int:
    """Train in place for the trial's seconds; the number of steps."""
    torch.manual_seed(trial.seed)
    for module in model.modules():  # some bases have none of their own
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT
        elif hasattr(module, "attention_dropout") and isinstance(module.attention_dropout, float):
            module.attention_dropout = DROPOUT
    folder = Path(tempfile.mkdtemp(prefix="pairwright-reproduce-"))
    clock = _Clock(trial.seconds)
    try:
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=str(folder),
                max_steps=MOST_STEPS,
                per_device_train_batch_size=method.batch,
                learning_rate=trial.rates * method.learning_rate,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=WARM_UP_STEPS,
                seed=trial.seed,
                data_seed=trial.seed,
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(method.rows(pairs, trial.seed)),
            loss=method.loss(model),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    model.eval()
    return int(trainer.state.global_step)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Ends a training when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._began = seconds, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start the clock."""
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Look at it."""
        control.should_training_stop = time.monotonic() - self._began >= self._seconds


def averaged(model: Any, table: Embeddings, texts: Sequence[str]) -> Embeddings:
    """The mean of a text's input embeddings, [texts, hidden]."""
    bag = encoder.bag_of_tokens_matrix(model, texts)
    return np.asarray(bag @ table[: bag.shape[1]], np.float32)


def whitened(encode: Encode, sentences: Sequence[str]) -> Encode:
    """Vectors whose covariance over `sentences` is the identity (Su et al. 2021)."""
    vectors = encode(sentences).astype(np.float64)
    mean = vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((vectors - mean).T))
    kept = variances > variances[-1] * NEGLIGIBLE
    matrix = axes[:, kept] / np.sqrt(variances[kept])
    return lambda texts: np.asarray((encode(texts) - mean) @ matrix, np.float32)


def write_given(folder: Path, target: Path) -> Path:
    """Write the sentences that are given, one a line, and return the file. No score is looked at."""
    files = sts_files(folder)
    if GIVEN_SET in files:
        texts = [one for one, _, _ in files[GIVEN_SET].rows]
    else:
        texts = DEMO.read_text(encoding="utf-8").splitlines()
    file = target / "given.txt"
    ordered = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())
    file.write_text("\n".join(ordered) + "\n", encoding="utf-8")
    return file


def write_lower_layers(teacher: Path, folder: Path) -> None:
    """The teacher's lowest layers as an encoder that was never trained for sentences: mean of the last states."""
    prompt_eol.lower_layers(teacher, LOWER_LAYERS, torch.float32).save_pretrained(folder)
    tokenizer = encoder.tokenizer(teacher)
    tokenizer.chat_template = None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=prompt_eol.LONGEST)
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    encoder.save(SentenceTransformer(modules=[transformer, pooling], device="cpu"), folder)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a section a base, the mean over seeds with its interval; below, what the paper reports."""
    names = sorted({name for row in rows for name in row["scores"]})
    lines = ["| | " + " | ".join([*names, "mean", "steps"]) + " |", "| --- |" + " ---: |" * (len(names) + 2)]
    for base in dict.fromkeys(row["base"] for row in rows):
        lines.append(f"| **{base}** |" + " |" * (len(names) + 2))
        for method in (*UNTRAINED, *METHODS):
            some = [row for row in rows if (row["base"], row["method"]) == (base, method) and row["scores"]]
            if not some:
                lines.append(f"| {method} |" + " - |" * (len(names) + 2))
                continue
            cells = [cell([row["scores"][name] for row in some]) for name in names]
            cells += [cell([float(np.mean(list(row["scores"].values()))) for row in some])]
            cells += [cell([row["steps"] for row in some], digits=0) if method in METHODS else ""]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines.append("| **the paper, RoBERTa-base, pairs of GPT2-XL** |" + " |" * (len(names) + 2))
    for method, scores in PAPER.items():
        lines.append(f"| {method} | " + " | ".join(str(scores.get(name, "")) for name in names) + " | | |")
    return "\n".join(lines)
