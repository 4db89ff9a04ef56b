"""Does the label-free estimate rank students as people do? Candidates of `candidates.py`, measured by both.

A domain is a folder as people have them: `corpus.jsonl`, `queries.jsonl` and `qrels` (BEIR), or `test.tsv` with labels
and `unlabelled.txt`. What people say measures, and chooses nothing.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.candidates import SEEDLESS, Base, Domain, vectors
from services.trainer.estimation.estimate import Estimator, RankEstimator, SearchEstimator
from services.trainer.estimation.mutual_information import QUERY, SAME_MEANING, measure_cached
from services.trainer.estimation.sample import near_and_far, search
from services.trainer.evaluation import human
from services.trainer.evaluation.judged import read_labelled, read_retrieval
from services.trainer.evaluation.sts import Encode, Row
from services.trainer.models.likelihood import Likelihood
from services.trainer.models.static import Embeddings

TEXTS, SHORTEST, LONGEST = 1_500, 20, 140
"""Unlabelled texts, and between how many characters they have."""
LABELLED, TITLES, QUERIES, SEARCHED = 1_500, 120, 70, 200
"""Labelled texts that measure; titles that are encoded and those that are queries, of texts longer than this."""
HARM = 1.0
"""A candidate that people find so many points worse than its base is harmful."""


@dataclass(frozen=True)
class Bench:
    """What a run shares."""

    teacher: Path
    students: Mapping[str, str]
    """The folders of `static` and `transformer`."""
    pairs: Path
    """Holds `DOMAIN.jsonl`, what the teacher wrote for each domain."""
    cache: Path


def run(folder: Path, other: str, seed: int, bench: Bench) -> list[dict[str, Any]]:
    """One row a candidate: what people and the estimate say of it, and how sure the estimate is against its base."""
    domain, texts, by_people = _read(folder, other, bench)
    longest = 160 if "queries" in texts else 64
    rows = []
    made = {
        name: vectors(Base(name, where, bench.teacher, bench.cache, longest), domain, seed, texts, bench.cache)
        for name, where in bench.students.items()
    }
    bases = [_lookup(texts, candidates["base"]) for candidates in made.values()]
    estimator = _estimator(domain.name, texts, bases, bench)
    for student, candidates in made.items():
        cosines = {name: estimator.cosines(_lookup(texts, own)) for name, own in candidates.items()}
        for name, own in candidates.items():
            change = estimator.compare(cosines["base"], cosines[name], 0.0)
            row = {"domain": domain.name, "student": student, "candidate": name, "seed": seed}
            estimate = estimator.estimate(cosines[name])._asdict()
            rows.append(row | {"people": by_people(own), "estimate": estimate, "against_base": asdict(change)})
    return rows


def agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Spearman of the estimate with people over candidates, and what becomes of the harmful ones."""
    bases = {row["student"]: row for row in rows if row["candidate"] == "base"}
    gains = [mean(row) - mean(bases[row["student"]]) for row in rows]
    harmful = [row for row, gain in zip(rows, gains, strict=True) if gain < -HARM]
    above = [row for row in harmful if row["against_base"]["value"] > 0]
    parts = {"all": rows} | {name: [row for row in rows if row["student"] == name] for name in bases}
    return {
        "candidates": len(rows),
        "spearman": {
            name: round(float(spearmanr([mean(row) for row in some], [row["estimate"]["value"] for row in some])[0]), 2)
            for name, some in parts.items()
        },
        "harmful": len(harmful),
        "harmful_above_base": len(above),
        "harmful_published": sum(row["against_base"]["better"] >= 0.95 for row in above),
    }


def unique(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each candidate and seed once: `base` and `mean removed` depend on none."""
    by_name = {(row["student"], row["candidate"], row["candidate"] in SEEDLESS or row["seed"]): row for row in rows}
    return list(by_name.values())


def mean(row: Mapping[str, Any]) -> float:
    """People's measure: nDCG@10, or the mean of V-measure, nearest neighbour and average precision."""
    return float(np.mean(list(row["people"].values())))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The candidates of one domain, people's favourite first."""
    bases = {row["student"]: mean(row) for row in rows if row["candidate"] == "base"}
    lines = ["| student | candidate | seed | people | against base | estimate | against base | interval |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in sorted(rows, key=mean, reverse=True):
        change, people, estimate = row["against_base"], mean(row), row["estimate"]["value"]
        cells = [row["student"], row["candidate"], str(row["seed"]), f"{people:.1f}"]
        cells += [f"{people - bases[row['student']]:+.1f}", f"{estimate:.1f}", f"{change['value']:+.1f}"]
        cells.append(f"{change['low']:+.1f} to {change['high']:+.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _read(folder: Path, other: str, bench: Bench) -> tuple[Domain, dict[str, list[str]], Any]:
    """The domain, the texts that are encoded, and what people say of their vectors."""
    pairs, other_pairs = _pairs(bench.pairs / f"{folder.name}.jsonl"), _pairs(bench.pairs / f"{other}.jsonl")
    if (folder / "corpus.jsonl").is_file():
        judged = read_retrieval(folder, "--domain")
        rows = list(map(json.loads, (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()))
        titles = [(row["title"], row["text"]) for row in rows if len(row["text"]) > 100]
        domain = Domain(folder.name, judged.documents, pairs, other_pairs, titles)
        chosen = [number for number, row in enumerate(rows) if len(row["text"]) > SEARCHED]
        random.Random(3).shuffle(chosen)
        own = [str(rows[number]["title"]).strip(" .") for number in chosen[:TITLES]]
        passages = [judged.documents[number] for number in chosen[:TITLES]]
        texts = {"sample": judged.documents, "queries": judged.queries, "own": own, "passages": passages}
        return (
            domain,
            texts,
            lambda own: {
                "ndcg@10": human.retrieval(own["queries"], own["sample"], judged.relevant).measures["ndcg@10"].value
            },
        )
    labelled = read_labelled(folder / "test.tsv", "--domain")
    chosen = random.Random(5).sample(range(len(labelled.texts)), min(LABELLED, len(labelled.texts)))
    first = (bench.pairs / f"{folder.name}.txt").read_text(encoding="utf-8").split("\n")
    rest = (folder / "unlabelled.txt").read_text(encoding="utf-8").split("\n")
    rest = [text for text in rest if SHORTEST < len(text) < LONGEST]
    random.Random(7).shuffle(rest)
    sample = [text for text in dict.fromkeys([*first, *rest]) if text][:TEXTS]
    texts = {"sample": sample, "test": [labelled.texts[number] for number in chosen]}
    labels = [labelled.labels[number] for number in chosen]
    return (
        Domain(folder.name, sample, pairs, other_pairs),
        texts,
        lambda own: {name: one.value for name, one in human.grouping(own["test"], labels).items()},
    )


def _estimator(name: str, texts: Mapping[str, list[str]], bases: Sequence[Encode], bench: Bench) -> Estimator:
    load = cache(partial(Likelihood, bench.teacher, "teacher"))
    measure = partial(measure_cached, file=bench.cache / f"{name}-mutual-information.npz", load=load)
    if "own" in texts:
        passage = dict(zip(texts["own"], texts["passages"], strict=True))
        queries = texts["own"][:QUERIES]
        found = search(queries, [passage[query] for query in queries], texts["sample"], bases)
        return SearchEstimator(found, measure(found.rows(), QUERY, on_progress=lambda _done, _all: None))
    pairs = near_and_far(texts["sample"], [encode(texts["sample"]) for encode in bases])
    return RankEstimator("grouping", pairs, measure(pairs.rows(), SAME_MEANING, on_progress=lambda _done, _all: None))


def _lookup(texts: Mapping[str, list[str]], own: Mapping[str, Embeddings]) -> Encode:
    """A student that has encoded these texts already."""
    table = {text: vector for name, some in texts.items() for text, vector in zip(some, own[name], strict=True)}
    return lambda some: np.stack([table[text] for text in some])


def _pairs(file: Path) -> list[Row]:
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [(row["sentence1"], row["sentence2"], float(row["score"])) for row in rows]
