"""From a trained student to a version: write, load what was written, measure it, ask the gate, report, publish."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.store import Origin, Round
from services.trainer.evaluation.gate import Student, compare
from services.trainer.evaluation.sts import StsFile, Undefined, correlation, score, similarities
from services.trainer.models import encoder
from services.trainer.progress import Progress
from services.trainer.publishing.onnx_export import add_int8
from services.trainer.publishing.report.report import Findings, write_report
from services.trainer.publishing.retention import best, retain
from services.trainer.settings import TrainerSettings
from services.trainer.training.fit import Outcome
from services.trainer.training.recipe import Recipe
from services.trainer.training.split import Split
from shared import __version__
from shared.errors import Fatal, first_line
from shared.manifest import PROBE_SENTENCES, Card, Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion

log = logging.getLogger(__name__)

Say = Callable[[Progress], None]

SANITY_TEXTS = 500


@dataclass(frozen=True)
class StudentScores:
    """How a student does. The two kinds of scores never meet in one figure."""

    dev: float | None = None
    """Spearman x 100 on the generated dev pairs."""
    cosines: npt.NDArray[np.float64] | None = None
    """On the dev pairs, in their order."""
    human: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DistillationStats:
    """What a static student has learned from before it trained."""

    views: int = 0
    """Sentences that the teacher has looked at."""
    views_s: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """A student in memory and how it came about. Round 0 has no rows, recipe or outcome."""

    model: Any
    round: Round
    dataset: str
    human: dict[str, StsFile]
    start: str | None = None
    rows: Split | None = None
    recipe: Recipe | None = None
    selected_by: str | None = None
    outcome: Outcome | None = None
    before: StudentScores = StudentScores()
    prepare_s: float = 0.0
    viewed: DistillationStats = DistillationStats()
    origins: list[Origin] = field(default_factory=list)


def score_student(model: Any, rows: Split, human: Mapping[str, StsFile]) -> StudentScores:
    """How the student does before training, and afterwards."""
    encode = partial(encoder.encode, model)
    dev, cosines = None, None
    if rows.dev_fault is None:
        try:
            cosines = similarities(encode, rows.dev)
            dev = round(correlation([gold for _, _, gold in rows.dev], cosines), 2)
        except Undefined as error:
            log.warning("no dev score: %s", error)
    scores = {}
    for name, file in human.items():
        with suppress(Undefined):
            scores[name] = round(score(encode, file.rows), 2)
    return StudentScores(dev, cosines, scores)


def publish(candidate: Candidate, store: ModelStore, own: TrainerSettings, epoch: int) -> Manifest:
    """Write the version, and measure what was written rather than what is in memory. Raises OSError and `Fenced`."""
    with store.staging() as staged:
        encoder.save(candidate.model, staged)
        written = encoder.load(str(staged), "the version just written")
        after = score_student(written, candidate.rows, candidate.human) if candidate.rows else StudentScores()
        rejection, facts = _ask_the_gate(candidate, written, store, own)
        int8 = None
        # The teacher itself in int8 was untrue (cosine 0.79), and to find that out took five minutes.
        if rejection is None and candidate.round.base != "teacher":
            int8 = add_int8(staged, candidate.rows.dev if candidate.rows else [])
        card = _card(candidate, after, facts, store.current(), epoch).model_copy(update={"int8": int8})
        write_report(staged, _findings(candidate, card, after, rejection))
        probe = encoder.encode(written, PROBE_SENTENCES).tolist()
        if rejection is not None:
            manifest = store.reject(staged, card, _finite(probe), rejection)
        else:
            manifest = store.publish(staged, card, probe)
    _tidy(store, own, manifest)
    return manifest


def _ask_the_gate(
    candidate: Candidate, written: Any, store: ModelStore, own: TrainerSettings
) -> tuple[str | None, dict[str, Any]]:
    if candidate.rows is None:
        return None, {}
    rows = candidate.rows
    texts = [*PROBE_SENTENCES, *dict.fromkeys(text for row in rows.dev for text in row[:2])][:SANITY_TEXTS]
    base = candidate.round.base
    student = Student("candidate", partial(encoder.encode, written), encoder.dimensions(candidate.model), base)
    references = _references(store, base, candidate.round.seed)
    dev = [] if rows.dev_fault else rows.dev
    return compare(student, references, dev, texts, own.gate_margin, own.gate_confidence)


def _references(store: ModelStore, base: str, seed: int) -> list[Student]:
    """The current version, and the best one of the same base if that is another: many small steps down add up.

    One that was trained with another seed was trained on what is held out now, so it would win unfairly.
    """
    found = []
    top = best([manifest for manifest in store.versions() if manifest.base == base])
    for version in dict.fromkeys([store.current(), top.id if top else None]):
        if version is None:
            continue
        try:
            manifest = store.verify(version)
            if manifest.recipe.get("seed", seed) != seed:
                log.warning("the gate can't compare with %s, which had another seed and so another dev side", version)
                continue
            model = encoder.load(str(store.path(version)), f"version {version}")
        except (BrokenVersion, NoVersion, Fatal) as error:
            log.warning("the gate can't compare with %s: %s", version, error)
            continue
        found.append(Student(version, partial(encoder.encode, model), manifest.dimensions, manifest.base))
    return found


def _card(candidate: Candidate, after: StudentScores, gate: dict[str, Any], parent: str | None, epoch: int) -> Card:
    round_, before, outcome = candidate.round, candidate.before, candidate.outcome
    scores = {"dev_before": before.dev, "dev_after": after.dev}
    training = asdict(outcome) if outcome else {}
    training.pop("history", None)
    if outcome and outcome.seconds:
        training |= asdict(candidate.viewed)
        training["prepare_s"] = round(candidate.prepare_s, 1)
        training["pairs_s"] = round(outcome.rows / outcome.seconds, 1)
    return Card(
        base=round_.base,
        parent=parent,
        start=candidate.start,
        round=round_.id,
        pairs=round_.pairs,
        dataset=candidate.dataset,
        dataset_hash=round_.dataset_hash,
        dimensions=encoder.dimensions(candidate.model),
        matryoshka=list(candidate.recipe.matryoshka) if candidate.recipe else [],
        max_seq_length=encoder.max_seq_length(candidate.model),
        scores={name: value for name, value in scores.items() if value is not None},
        human_scores={"before": before.human, "after": after.human} if after.human else {},
        selected_by=candidate.selected_by,
        split=asdict(candidate.rows.facts) if candidate.rows else {},
        gate=gate,
        recipe=candidate.recipe.describe() if candidate.recipe else {},
        training=training,
        code_version=__version__,
        epoch=epoch,
    )


def _findings(candidate: Candidate, card: Card, after: StudentScores, rejection: str | None) -> Findings:
    return Findings(
        card=card,
        rejection=rejection,
        history=candidate.outcome.history if candidate.outcome else [],
        dev=candidate.rows.dev if candidate.rows and not candidate.rows.dev_fault else [],
        before=candidate.before.cosines,
        after=after.cosines,
        origins=candidate.origins,
    )


def _finite(probe: list[list[float]]) -> list[list[float]]:
    """JSON has no NaN; a rejected candidate is never proven by its probe."""
    return [[float(np.nan_to_num(value)) for value in vector] for vector in probe]


def _tidy(store: ModelStore, own: TrainerSettings, manifest: Manifest) -> None:
    """What may fail without harm to the version that is published."""
    try:
        retain(store, own.keep_versions)
    except OSError as error:
        log.warning("old versions are not deleted: %s", error)
    if own.hub_repo and manifest.rejection is None:
        from services.trainer.publishing.hub import push

        try:
            log.info("pushed to %s", push(store.path(manifest.id), own.hub_repo, manifest.id))
        except Exception as error:  # a dozen classes of the hub's, of httpx and of the system
            log.warning("%s is not pushed to %s: %s", manifest.id, own.hub_repo, first_line(error))
