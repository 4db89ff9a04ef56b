"""One round, from its pairs to a published version: what the worker's child process does."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from services.trainer import encoder, recipe, student, training
from services.trainer.dataset import Dataset, Round
from services.trainer.evaluation import Undefined, score_pairs
from services.trainer.progress import Progress
from services.trainer.settings import TrainerSettings
from shared import __version__
from shared.model_store import PROBE_SENTENCES, Card, Manifest, ModelStore
from shared.pairs import Pair
from shared.settings import Settings

log = logging.getLogger(__name__)

Say = Callable[[Progress], None]

README = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, pairwright]
---
# A sentence encoder made by Pairwright

Round {round} of the dataset `{dataset}`: {origin}
Every training pair was written by a language model; no human label was used.

| | |
| --- | --- |
| base | `{base}` |
| pairs | {pairs} |
| dataset hash | `{dataset_hash}` |
| vectors | {dimensions} dimensions |
| Spearman x 100 on generated dev pairs, before | {before} |
| and after | {after} |
"""


def run_round(id_: int, dataset: Dataset, store: ModelStore, common: Settings, own: TrainerSettings, say: Say) -> None:
    """Train, measure and publish round `id_`; round 0 publishes the base as it is. Safe to repeat after any death.

    Raises `Fatal` for a student that can't be loaded and OSError when the disk refuses; `current` then stays.
    """
    round_ = dataset.round(id_)
    published = _published(store, round_)
    if published is not None:  # a death came between publication and the worker's note of it
        store.activate(published.id)
        say(Progress(state="publishing", version=published.id, scores=published.scores))
        return
    work = common.dataset_dir / "rounds" / str(id_)
    shutil.rmtree(work, ignore_errors=True)  # what a run before this one left; we start over
    work.mkdir(parents=True)
    try:
        manifest = _train_and_publish(round_, dataset.pairs(round_), store, common, own, work, say)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(Progress(state="publishing", version=manifest.id, scores=manifest.scores))


def _published(store: ModelStore, round_: Round) -> Manifest | None:
    """This very round's version, if there is one: training may not give the same bits again."""
    same = (
        manifest
        for manifest in store.versions()
        if manifest.round == round_.id and (manifest.base, manifest.dataset_hash) == (round_.base, round_.dataset_hash)
    )
    return next(same, None)


def _train_and_publish(
    round_: Round, pairs: list[Pair], store: ModelStore, common: Settings, own: TrainerSettings, work: Path, say: Say
) -> Manifest:
    say(Progress(state="training" if pairs else "publishing"))
    model = encoder.load(student.locate(round_.base, common.teacher, common.cache_dir), student.SETTING)
    used: dict[str, Any] = {}
    scores: dict[str, float] = {}
    rows = recipe.prepare(pairs, round_.seed)
    if pairs:
        if rows.dev_fault is not None:
            log.warning("round %d has no dev scores: %s", round_.id, rows.dev_fault)
        numbers = training.recipe_for(model, own, len(rows.train), round_.seed)
        used = training.describe(numbers)
        scores |= _dev_score("dev_before", model, rows)
        training.train(model, rows, numbers, work, say)
        say(Progress(state="publishing"))
    card = Card(
        base=round_.base,
        parent=store.current(),
        round=round_.id,
        pairs=round_.pairs,
        dataset=common.dataset,
        dataset_hash=round_.dataset_hash,
        dimensions=encoder.dimensions(model),
        max_seq_length=encoder.max_seq_length(model),
        recipe=used,
        code_version=__version__,
    )
    return _publish(model, card, scores, rows, store)


def _publish(model: Any, card: Card, scores: dict[str, float], rows: recipe.Rows, store: ModelStore) -> Manifest:
    """Write the version, and measure what was written rather than what is in memory."""
    with store.staging() as staged:
        encoder.save(model, staged)
        reloaded = encoder.load(str(staged), "the version just written")
        if card.pairs:
            scores = scores | _dev_score("dev_after", reloaded, rows)
        card = card.model_copy(update={"scores": scores})
        (staged / "README.md").write_text(_readme(card), encoding="utf-8")
        probe = encoder.encode(reloaded, PROBE_SENTENCES)
        return store.publish(staged, card, probe.tolist())


def _dev_score(name: str, model: Any, rows: recipe.Rows) -> dict[str, float]:
    """Under `name`, the model's score on the dev side; nothing where there is none."""
    if rows.dev_fault is not None:
        return {}
    try:
        return {name: round(score_pairs(partial(encoder.encode, model), rows.dev), 2)}
    except Undefined as error:
        log.warning("no %s: %s", name, error)
        return {}


def _readme(card: Card) -> str:
    origin = "a student fine-tuned on generated sentence pairs." if card.pairs else "the base student, untrained."
    before, after = (str(card.scores.get(name, "-")) for name in ("dev_before", "dev_after"))
    return README.format(**card.model_dump(), origin=origin, before=before, after=after)
