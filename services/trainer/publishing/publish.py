"""From a trained student to a version: write, load what was written, measure it, ask the gate, report, publish."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from services.trainer.evaluation.sts import Row
from services.trainer.models import encoder
from services.trainer.publishing.candidate import Candidate, StudentScores, score_student
from services.trainer.publishing.gate import BASE, CANDIDATE, Decision, Gate, Student, Verdict
from services.trainer.publishing.onnx_export import Exports, add_exports
from services.trainer.publishing.report.report import write_report
from services.trainer.publishing.retention import best, retain
from services.trainer.settings import TrainerSettings
from services.trainer.training.split import Split
from shared import __version__
from shared.errors import Fatal, first_line
from shared.manifest import PROBE_SENTENCES, Card, Manifest, int8_ranges
from shared.model_store import BrokenVersion, ModelStore, NoVersion

log = logging.getLogger(__name__)

SANITY_TEXTS = 500


def publish(candidate: Candidate, store: ModelStore, own: TrainerSettings, epoch: int) -> Manifest:
    """Write the version, and measure what was written rather than what is in memory. Raises OSError and `Fenced`."""
    split = candidate.split
    with store.staging() as staged:
        encoder.save(candidate.model, staged)
        written = encoder.load(str(staged), "the version just written")
        after = score_student(written, split, candidate.human) if split else StudentScores()
        verdict = _ask_the_gate(candidate, written, store, own)
        rejection = None if verdict.decision is Decision.PUBLISH else verdict.reason
        exports = Exports()
        # The teacher itself in int8 was untrue (cosine 0.79), and to find that out took five minutes.
        if rejection is None and candidate.round.base != "teacher":
            exports = add_exports(staged, split.dev if split else [])
        card = _card(candidate, after, verdict, store.current(), epoch, own).model_copy(update=exports._asdict())
        if rejection is None:
            card = card.model_copy(update={"int8_ranges": _int8_ranges(card, written, split)})
        write_report(staged, candidate, card, after, rejection)
        probe = encoder.encode(written, PROBE_SENTENCES)
        if rejection is None:
            manifest = store.publish(staged, card, probe.tolist())
        else:  # JSON has no NaN; a rejected candidate is never checked by its probe
            manifest = store.reject(staged, card, np.nan_to_num(probe).tolist(), rejection)
    _tidy(store, own, manifest)
    return manifest


def _ask_the_gate(candidate: Candidate, written: Any, store: ModelStore, own: TrainerSettings) -> Verdict:
    if candidate.split is None:
        return Verdict(Decision.PUBLISH, "it is the untrained base")
    base, dev = candidate.round.base, candidate.split.dev
    texts = _texts(dev)
    student = Student(CANDIDATE, partial(encoder.encode, written), encoder.dimensions(candidate.model), base)
    untrained = Student(BASE, partial(encoder.encode, candidate.base), encoder.dimensions(candidate.base), base)
    gate = Gate(own.gate_margin, own.gate_confidence, own.gate == "off")
    return gate.decide(student, [untrained, *_published(store, base)], candidate.estimators, texts)


def _texts(dev: Sequence[Row]) -> list[str]:
    return [*PROBE_SENTENCES, *dict.fromkeys(text for row in dev for text in row[:2])][:SANITY_TEXTS]


def _int8_ranges(card: Card, written: Any, split: Split | None) -> dict[int, float]:
    """What int8 must cover, by the dev split's texts; {} without one."""
    if split is None or not split.dev:
        return {}
    vectors = encoder.encode(written, _texts(split.dev)).tolist()
    return int8_ranges(vectors, [card.dimensions, *card.matryoshka])


def _published(store: ModelStore, base: str) -> list[Student]:
    """The best version of the same base, and the current one: many small steps down add up."""
    references = []
    top = best([manifest for manifest in store.versions() if manifest.base == base])
    for version in filter(None, dict.fromkeys([top.id if top else None, store.current()])):
        try:
            manifest = store.verify(version)
            if manifest.round == 0 and manifest.base == base:
                continue  # the base itself
            encode = partial(encoder.encode, encoder.load(str(store.path(version)), f"version {version}"))
            references.append(Student(version, encode, manifest.dimensions, manifest.base))
        except (BrokenVersion, NoVersion, Fatal) as error:
            log.warning("the gate can't compare with %s: %s", version, error)
    return references


def _card(
    candidate: Candidate, after: StudentScores, verdict: Verdict, parent: str | None, epoch: int, own: TrainerSettings
) -> Card:
    round_, before, outcome, recipe = candidate.round, candidate.before, candidate.outcome, candidate.recipe
    scores = {"dev_before": before.dev, "dev_after": after.dev}
    training = {name: value for name, value in asdict(outcome).items() if name != "history"} if outcome else {}
    training |= candidate.preparation | (asdict(candidate.corpus) if candidate.corpus else {})
    if outcome and outcome.seconds:
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
        matryoshka=list(recipe.matryoshka) if recipe else [],
        max_seq_length=encoder.max_seq_length(candidate.model),
        scores={name: value for name, value in scores.items() if value is not None},
        human_scores={"before": before.human, "after": after.human} if after.human else {},
        selected_by=candidate.selected_by,
        split=asdict(candidate.split.stats) if candidate.split else {},
        estimates=verdict.estimates,
        gate=_gate_facts(candidate, verdict, own) if candidate.split else {},
        held=verdict.decision is Decision.HOLD,
        recipe=recipe.describe() if recipe else {},
        training=training,
        code_version=__version__,
        epoch=epoch,
    )


def _gate_facts(candidate: Candidate, verdict: Verdict, own: TrainerSettings) -> dict[str, Any]:
    return {
        "decision": verdict.decision.value,
        "reason": verdict.reason,
        "compared": verdict.compared,
        "share": candidate.share,
        "estimate_teacher": own.estimate_teacher,
        "margin": own.gate_margin,
        "confidence": own.gate_confidence,
    }


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
