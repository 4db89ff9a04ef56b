"""From a trained student to a version: write, load what was written, measure it, ask the gate, report, publish."""

import logging
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from services.trainer.evaluation.gate import Student, compare
from services.trainer.models import encoder
from services.trainer.publishing.candidate import Candidate, StudentScores, score_student
from services.trainer.publishing.onnx_export import add_int8
from services.trainer.publishing.report.report import write_report
from services.trainer.publishing.retention import best, retain
from services.trainer.settings import TrainerSettings
from shared import __version__
from shared.errors import Fatal, first_line
from shared.manifest import PROBE_SENTENCES, Card, Manifest
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
        rejection, gate = _ask_the_gate(candidate, written, after, store, own)
        int8 = None
        # The teacher itself in int8 was untrue (cosine 0.79), and to find that out took five minutes.
        if rejection is None and candidate.round.base != "teacher":
            int8 = add_int8(staged, split.dev if split else [])
        card = _card(candidate, after, gate, store.current(), epoch).model_copy(update={"int8": int8})
        write_report(staged, candidate, card, after, rejection)
        probe = encoder.encode(written, PROBE_SENTENCES)
        if rejection is None:
            manifest = store.publish(staged, card, probe.tolist())
        else:  # JSON has no NaN; a rejected candidate is never checked by its probe
            manifest = store.reject(staged, card, np.nan_to_num(probe).tolist(), rejection)
    _tidy(store, own, manifest)
    return manifest


def _ask_the_gate(
    candidate: Candidate, written: Any, after: StudentScores, store: ModelStore, own: TrainerSettings
) -> tuple[str | None, dict[str, Any]]:
    if candidate.split is None:
        return None, {}
    split, base = candidate.split, candidate.round.base
    texts = [*PROBE_SENTENCES, *dict.fromkeys(text for row in split.dev for text in row[:2])][:SANITY_TEXTS]
    student = Student("candidate", partial(encoder.encode, written), encoder.dimensions(candidate.model), base)
    references = _references(store, base, candidate.round.seed)
    return compare(student, references, split.eval_pairs, after.cosines, texts, own.gate_margin, own.gate_confidence)


def _references(store: ModelStore, base: str, seed: int) -> list[Student]:
    """The current version, and the best one of the same base if that is another: many small steps down add up."""
    references = []
    top = best([manifest for manifest in store.versions() if manifest.base == base])
    for version in filter(None, dict.fromkeys([store.current(), top.id if top else None])):
        try:
            manifest = store.verify(version)
            if manifest.recipe.get("seed", seed) != seed:  # it was trained on what is held out now
                log.warning("the gate can't compare with %s, which had another seed and so another dev side", version)
                continue
            encode = partial(encoder.encode, encoder.load(str(store.path(version)), f"version {version}"))
            references.append(Student(version, encode, manifest.dimensions, manifest.base))
        except (BrokenVersion, NoVersion, Fatal) as error:
            log.warning("the gate can't compare with %s: %s", version, error)
    return references


def _card(candidate: Candidate, after: StudentScores, gate: dict[str, Any], parent: str | None, epoch: int) -> Card:
    round_, before, outcome, recipe = candidate.round, candidate.before, candidate.outcome, candidate.recipe
    scores = {"dev_before": before.dev, "dev_after": after.dev}
    training = {name: value for name, value in asdict(outcome).items() if name != "history"} if outcome else {}
    if outcome and outcome.seconds:
        training |= candidate.preparation | {"pairs_s": round(outcome.rows / outcome.seconds, 1)}
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
        gate=gate,
        recipe=recipe.describe() if recipe else {},
        training=training,
        code_version=__version__,
        epoch=epoch,
    )


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
