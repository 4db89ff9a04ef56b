"""`python -m experiments.relations`: how the default student learns best from its teacher's view.

Trials are students, each made of a part of the default teacher's corpus: by `distillation` alone, by `relations` after
it, with other lessons, and a placebo. Each is measured by judging pair sets, and by how far its cosines put pairs of
sentences in the teacher's order: pairs of sentences that nobody graded, and the judges' own.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from experiments import pair_sets
from experiments.sweep import human_sets
from services.trainer.distillation import corpus, embedding_cache, ridge, similarity
from services.trainer.distillation.corpus import Corpus
from services.trainer.distillation.similarity import DEFAULT, TrainingConfig
from services.trainer.evaluation.sts import Row, score, unit
from services.trainer.models import adapter, encoder, static
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Table
from services.trainer.students import locate
from shared.errors import Fatal
from shared.process import exit_with

JUDGES = ("people", "gemma", "reference", "own-a")
NEAREST = 0.01
"""The share of all pairs of sentences that is also measured alone: there a search decides."""
PARTS = (5_000, 10_000, 20_000)
ORDER = 5
"""Seed of the order in which the corpus is cut into parts."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """One student."""

    name: str
    sentences: int
    lesson: TrainingConfig | None
    """None: by `distillation` alone."""
    closed: bool = True
    """False: without `distillation`, from the token table."""
    placebo: bool = False
    """Each sentence is shown with the view of another."""


def trials(sentences: int) -> Iterator[Trial]:
    """What is tried with a corpus of so many sentences."""
    yield Trial("made of the token table", 0, None)
    for part in [part for part in PARTS if part < sentences]:
        yield Trial("views alone", part, None)
        yield Trial("and relations", part, replace(DEFAULT, epochs=round(DEFAULT.epochs * sentences / part)))
    yield Trial("views alone", sentences, None)
    for seed in (DEFAULT.seed, 1, 2):
        yield Trial("and relations", sentences, replace(DEFAULT, seed=seed))
    yield Trial("and relations, rate 0.003", sentences, replace(DEFAULT, learning_rate=3e-3))
    yield Trial("and relations, 15 epochs", sentences, replace(DEFAULT, epochs=15))
    yield Trial("relations alone", sentences, replace(DEFAULT, epochs=15), closed=False)
    yield Trial("placebo", sentences, DEFAULT, placebo=True)


class Measures:
    """What a static student is measured by: Spearman x 100."""

    def __init__(self, model: object, judges: Mapping[str, Sequence[Row]], texts: Sequence[str], seen: Table) -> None:
        """`seen`: what the teacher sees in `texts`, and after them in the judges' texts (`judged`)."""
        self._texts = encoder.bag_of_tokens_matrix(model, texts)
        self._order = _Order(_cosines(seen[: len(texts)]))
        every = judged(judges)
        self._judged, place = (
            encoder.bag_of_tokens_matrix(model, every),
            {text: number for number, text in enumerate(every)},
        )
        self._pairs = {}
        for name, graded in judges.items():
            pairs = np.array([[place[one], place[other]] for one, other, _ in graded])
            grades = rankdata([grade for _, _, grade in graded])
            self._pairs[name] = pairs, grades, rankdata(_between(seen[len(texts) :], pairs))

    def of(self, words: Table) -> dict[str, float]:
        """By name: each judge, `order` and `order of the nearest` of all pairs of texts, `order in` each judge."""
        of_judged = self._judged @ words.astype(np.float64)
        found = {}
        for name, (pairs, grades, order) in self._pairs.items():
            cosines = rankdata(_between(of_judged, pairs))
            found[name], found[f"order in {name}"] = (_correlation(cosines, other) for other in (grades, order))
        cosines = _cosines(self._texts @ words.astype(np.float64))
        found |= {"order": self._order.of(cosines), "order of the nearest": self._order.of_nearest(cosines)}
        return {name: round(100 * value, 2) for name, value in found.items()}


class _Order:
    """The teacher's order of pairs, and how far another has it too."""

    def __init__(self, cosines: Array) -> None:
        self._near = cosines >= np.quantile(cosines, 1 - NEAREST)
        self._all, self._nearest = rankdata(cosines), rankdata(cosines[self._near])

    def of(self, cosines: Array) -> float:
        return _correlation(rankdata(cosines), self._all)

    def of_nearest(self, cosines: Array) -> float:
        return _correlation(rankdata(cosines[self._near]), self._nearest)


def judged(judges: Mapping[str, Sequence[Row]]) -> list[str]:
    """The judges' sentences, each once."""
    return list(dict.fromkeys(text for pairs in judges.values() for one, other, _ in pairs for text in (one, other)))


def make(trial: Trial, plain: Table, tokenizer: object, taught: Corpus, centre: Table) -> Table:
    """The trial's word vectors, [tokens, dimensions]."""
    if not trial.sentences:
        return plain
    model = encoder.static_student(tokenizer, plain)
    chosen = np.random.default_rng(ORDER).permutation(len(taught.texts))[: trial.sentences]
    texts, seen = [taught.texts[number] for number in chosen], taught.embeddings[chosen]
    if trial.closed:
        encoder.set_token_embeddings(
            model, ridge.fit_to_teacher(plain, encoder.bag_of_tokens_matrix(model, texts), seen)
        )
    if trial.lesson:
        if trial.placebo:
            seen = np.random.default_rng(trial.lesson.seed).permutation(seen)
        similarity.distill_similarities(model, texts, seen - centre, trial.lesson)
    return encoder.token_embeddings(model)


def main() -> None:
    """Make and measure all of them. Raises `Fatal`."""
    parser = argparse.ArgumentParser(description="How the default student learns best from its teacher's trained view.")
    parser.add_argument("--teacher", type=Path, required=True, help="the default teacher's folder")
    parser.add_argument("--pairs", type=Path, required=True, help=f"a folder of pair sets: {', '.join(JUDGES)}")
    parser.add_argument("--sentences", type=Path, required=True, help="sentences to be put in order, one a line")
    parser.add_argument("--out", type=Path, required=True, help="a folder; takes rows.jsonl, and views between runs")
    parser.add_argument("--sts", type=Path, help="a folder of human-scored sets, for columns that choose nothing")
    given = parser.parse_args()
    table, tokenizer = encoder.token_table(given.teacher), encoder.tokenizer(given.teacher)
    taught, learned = corpus.corpus_of(table), adapter.adapter_of(table)
    if taught is None or learned is None:
        raise Fatal(f"--teacher: {given.teacher} is not the default teacher: it has no corpus and no trained view")
    judges = {name: pair_sets.read(given.pairs, name) for name in JUDGES}
    texts = [line for line in given.sentences.read_text(encoding="utf-8").split("\n") if line]
    cache = given.out / f"views-{locate.identity(given.teacher)}.npz"
    seen = embedding_cache.encode_cached(
        [*texts, *judged(judges)], cache, lambda: PromptEOLEncoder(given.teacher).encode, lambda _: None
    )
    centre = learned.centre.numpy()
    plain = static.word_vectors(table, encoder.tokens(tokenizer, len(table)))
    human = human_sets(given.sts)
    model = encoder.static_student(tokenizer, plain)
    measures = Measures(model, judges, texts, seen - centre)
    with (given.out / "rows.jsonl").open("w", encoding="utf-8") as out:
        for trial in trials(len(taught.texts)):
            words = make(trial, plain, tokenizer, taught, centre)
            encoder.set_token_embeddings(model, words)
            epochs, seed = (trial.lesson.epochs, trial.lesson.seed) if trial.lesson else (None, None)
            line = {"row": trial.name, "sentences": trial.sentences, "epochs": epochs, "seed": seed}
            line |= measures.of(words)
            line["human"] = {
                name: round(score(partial(encoder.encode, model), file.rows), 2) for name, file in human.items()
            }
            print(json.dumps(line), file=out, flush=True)
            print(json.dumps(line), flush=True)


def _cosines(vectors: npt.NDArray[np.floating]) -> Array:
    """Of all pairs of two rows."""
    turned = unit(vectors).astype(np.float64)
    found: Array = (turned @ turned.T)[np.triu_indices(len(turned), 1)]
    return found


def _between(vectors: npt.NDArray[np.floating], pairs: npt.NDArray[np.int64]) -> Array:
    turned = unit(vectors).astype(np.float64)
    found: Array = (turned[pairs[:, 0]] * turned[pairs[:, 1]]).sum(axis=1)
    return found


def _correlation(some: Array, others: Array) -> float:
    return float(np.corrcoef(some, others)[0, 1])


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("experiments", fatal)
