"""One round, from its pairs to a published version or a rejected candidate: what the worker's child process does."""

import json
import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from services.trainer.dataset.store import Dataset, Round
from services.trainer.distillation import embedding_cache, ridge
from services.trainer.evaluation.sts import StsFile, sts_files
from services.trainer.models import encoder
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.progress import Progress
from services.trainer.publishing.publish import Candidate, DistillationStats, Say, StudentScores, publish, score_student
from services.trainer.publishing.retention import repair
from services.trainer.settings import GENERATED, TrainerSettings
from services.trainer.students import locate
from services.trainer.training import fit, split
from services.trainer.training.distributed import ProcessGroup
from services.trainer.training.recipe import Recipe, recipe_for
from shared import __version__, teacher, tracing
from shared.errors import Fatal
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.settings import Settings

log = logging.getLogger(__name__)

PLAN = "plan.json"


def run_round(
    id_: int,
    dataset: Dataset,
    store: ModelStore,
    common: Settings,
    own: TrainerSettings,
    say: Say,
    epoch: int = 0,
    team: ProcessGroup | None = None,
) -> None:
    """Train, measure and publish round `id_`; round 0 publishes the base as it is. Safe to repeat after any death.

    A round that was killed goes on from its newest whole checkpoint. Raises `Fatal` for a student that can't be loaded,
    OSError when the disk refuses, and `Fenced` when a newer trainer has taken over; `current` then stays.
    """
    team = team or ProcessGroup()
    round_ = dataset.round(id_)
    done: Manifest | None = team.first(lambda: _begin(store, round_, epoch))
    if done is not None:  # a death came between publication and the worker's note of it
        say(Progress(state="publishing", version=done.id, scores=done.scores, rejection=done.rejection))
        return
    folder = common.dataset_dir / "rounds" / str(id_)
    work = _Work(round_, dataset, store, common, own, folder, team)
    say(Progress(state="preparing" if round_.pairs else "publishing"))
    with tracing.span("train", round=id_, pairs=round_.pairs):
        candidate = work.train(say) if round_.pairs else work.untrained()
    team.leave()
    if not team.is_first:
        return
    say(Progress(state="publishing"))
    with tracing.span("publish", round=id_):
        manifest = publish(candidate, store, own, epoch)
        tracing.set_attributes(version=manifest.id, rejected=int(manifest.rejection is not None))
    shutil.rmtree(folder.parent, ignore_errors=True)  # older rounds' leftovers too
    say(Progress(state="publishing", version=manifest.id, scores=manifest.scores, rejection=manifest.rejection))


def _begin(store: ModelStore, round_: Round, epoch: int) -> Manifest | None:
    """Look after the store; what came of this very round already, if anything: training may not give the same bits."""
    store.fence(epoch)
    if (healed := repair(store)) is not None:
        log.error("the current version was damaged: %s", healed)
    facts = (round_.id, round_.base, round_.dataset_hash)
    for manifest in [*store.versions(), *store.rejected()]:
        if (manifest.round, manifest.base, manifest.dataset_hash) == facts:
            if manifest.rejection is None:
                store.activate(manifest.id)
            return manifest
    return None


class _Work:
    """What is done before there is a candidate."""

    def __init__(
        self,
        round_: Round,
        dataset: Dataset,
        store: ModelStore,
        common: Settings,
        own: TrainerSettings,
        folder: Path,
        team: ProcessGroup,
    ) -> None:
        self._round, self._dataset, self._store, self._own = round_, dataset, store, own
        self._common, self._folder, self._team = common, folder, team
        self._human: dict[str, StsFile] = sts_files(own.sts, "PAIRWRIGHT_TRAINER_STS") if own.sts else {}

    def untrained(self) -> Candidate:
        """Round 0: the base as it is."""
        return self._candidate(self._load(None))

    def train(self, say: Say) -> Candidate:
        """Prepare the rows, then fine-tune. All processes of the team come here."""
        start = self._start()
        model = self._load(start)
        static = encoder.is_static(model)
        embedded = self._round.base == self._common.teacher == "default"
        recipe = recipe_for(self._own, static, encoder.dimensions(model), self._round.seed, embedded)
        began = time.monotonic()
        self._team.first(partial(self._prepare, recipe, start))
        prepare_s = time.monotonic() - began
        found = split.prepared(self._folder / "rows")
        if found is None or not found.facts.train:
            raise Fatal(f"round {self._round.id} has no rows to train on: {recipe.loss} needs pairs that score higher")
        recipe = recipe.for_rows(found.facts.train, static)
        if found.dev_fault is not None:
            log.warning("round %d has no dev scores: %s", self._round.id, found.dev_fault)
        judges, selected_by = self._judges(found)
        before = score_student(model, found, self._human) if self._team.is_first else StudentScores()
        # A warm start's words have learned it already.
        viewed = self._learn_views(model, recipe.views, say) if start is None else DistillationStats()
        say(Progress(state="training"))
        work = fit.TrainingInputs(
            train=self._folder / "rows" / split.TRAIN,
            judges=judges,
            folder=self._folder / "checkpoints",
            checkpoint_s=self._own.checkpoint_seconds,
        )
        outcome = fit.train(model, recipe, work, say)
        return self._candidate(
            model,
            start=start,
            rows=found,
            recipe=recipe,
            selected_by=selected_by if judges else None,
            outcome=outcome,
            before=before,
            prepare_s=prepare_s,
            viewed=viewed,
            origins=self._dataset.origins(self._round.pairs) if self._team.is_first else [],
        )

    def _learn_views(self, model: Any, most: int, say: Say) -> DistillationStats:
        """Move a static student's words towards what the teacher sees in the sentences that are trained on."""
        texts = embedding_cache.sample_texts(self._folder / "rows" / split.TRAIN, most) if most else []
        if len(texts) < ridge.FEWEST:
            return DistillationStats()
        began = time.monotonic()
        source = locate.teacher_folder(teacher.locate(self._common.teacher, self._common.cache_dir))
        file = self._common.dataset_dir / f"views-{locate.identity(source)}.npz"

        def count(done: int) -> None:
            say(Progress(state="viewing", step=done, steps=len(texts)))

        seen = embedding_cache.encode_cached(texts, file, lambda: PromptEOLEncoder(source).views, count)
        bags = encoder.bag_of_tokens_matrix(model, texts)
        encoder.set_token_embeddings(
            model,
            ridge.rotate_to_principal_axes(ridge.fit_to_teacher(encoder.token_embeddings(model), bags, seen), bags),
        )
        return DistillationStats(len(texts), round(time.monotonic() - began, 1))

    def _candidate(self, model: Any, **trained: Any) -> Candidate:
        return Candidate(model=model, round=self._round, dataset=self._common.dataset, human=self._human, **trained)

    def _load(self, start: str | None) -> Any:
        if start is not None:
            return encoder.load(str(self._store.path(start)), f"version {start}")
        located = locate.locate(self._round.base, self._common.teacher, self._common.cache_dir)
        return encoder.load(located, locate.SETTING)

    def _start(self) -> str | None:
        """The version to go on from, if it is still sound."""
        if self._round.start is None:
            return None
        try:
            self._store.verify(self._round.start)
        except (NoVersion, BrokenVersion) as error:
            log.warning("the round starts from the base: %s", error)
            return None
        return self._round.start

    def _prepare(self, recipe: Recipe, start: str | None) -> None:
        """Write the rows, unless a run that was killed has written the same ones."""
        plan = self._plan(recipe, start)
        if not (self._folder / PLAN).is_file() or json.loads((self._folder / PLAN).read_text()) != plan:
            shutil.rmtree(self._folder, ignore_errors=True)  # settings were changed: its checkpoints mean nothing now
            self._folder.mkdir(parents=True)
            (self._folder / PLAN).write_text(json.dumps(plan))
        target = self._folder / "rows"
        if split.prepared(target) is not None:
            return
        os.environ["SQLITE_TMPDIR"] = str(self._folder)  # sorting millions of pairs takes room that /tmp may not have
        try:
            split.prepare(self._dataset.pairs(self._round), recipe, target, self._replay(start))
        except split.NoNewPairs:
            split.prepare(self._dataset.pairs(self._round), recipe, target)

    def _plan(self, recipe: Recipe, start: str | None) -> dict[str, Any]:
        """All that the rows and checkpoints in the folder depend on."""
        return {
            **{name: getattr(self._round, name) for name in ("dataset_hash", "base", "seed")},
            "start": start,
            "replay": self._own.replay if start else None,
            "select_on": self._own.select_on,
            "recipe": recipe.describe(),
            "code_version": __version__,
            "processes": self._team.size,
        }

    def _replay(self, start: str | None) -> split.Replay | None:
        """A warm start takes the pairs that the version has not seen, and so many old ones."""
        if start is None:
            return None
        manifest = self._store.manifest(start)
        known = any(one.version == start for one in self._dataset.rounds())
        seen = manifest.pairs if known else 0
        new = self._round.pairs - seen
        return split.Replay(seen, min(1.0, self._own.replay * new / seen) if seen else 1.0)

    def _judges(self, found: split.Split) -> tuple[list[Any], str]:
        """The pairs that choose the checkpoint, and what the manifest says of them. Raises `Fatal`."""
        name = self._own.select_on
        if name == GENERATED:
            return ([] if found.dev_fault else found.dev), "generated dev pairs"
        if name not in self._human:
            known = ", ".join(self._human) or "none: set PAIRWRIGHT_TRAINER_STS"
            raise Fatal(f"PAIRWRIGHT_TRAINER_SELECT_ON: there is no STS file {name!r}; there is {known}")
        return self._human[name].rows, f"human-scored pairs: {name}"
