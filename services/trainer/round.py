"""One round, from its pairs to a published version or a rejected candidate: what the worker's child process does."""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from services.trainer.dataset.store import Dataset, Origin, Round
from services.trainer.distillation import embedding_cache, embedding_shards, ridge
from services.trainer.estimation import build
from services.trainer.estimation.estimate import Estimator
from services.trainer.evaluation.sts import Row, StsFile, sts_files
from services.trainer.models import encoder
from services.trainer.models.likelihood import Likelihood
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.progress import Progress
from services.trainer.publishing.candidate import Candidate, StudentScores, score_student
from services.trainer.publishing.cosines import keep_cosines
from services.trainer.publishing.mixture import mix
from services.trainer.publishing.publish import publish
from services.trainer.publishing.retention import repair
from services.trainer.settings import GENERATED, TrainerSettings
from services.trainer.students import locate
from services.trainer.students.names import SETTING
from services.trainer.training import fit, preparation, queries, retrieval, split
from services.trainer.training.distributed import ProcessGroup
from services.trainer.training.fit import ReportProgress
from services.trainer.training.recipe import Recipe, recipe_for
from services.trainer.training.retrieval import Corpus
from shared import __version__, teacher, tracing
from shared.errors import Fatal
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.settings import MADE_STUDENTS, Settings, learns_teacher

log = logging.getLogger(__name__)

PLAN = "plan.json"
MOST_SHORT_TEXTS = 1_000
"""Of a corpus that the teacher embeds: a minute on two cores."""
ESTIMATE_TEACHER = "PAIRWRIGHT_TRAINER_ESTIMATE_TEACHER"


def run_round(
    id_: int,
    dataset: Dataset,
    store: ModelStore,
    common: Settings,
    own: TrainerSettings,
    report_progress: ReportProgress,
    epoch: int = 0,
    processes: ProcessGroup | None = None,
) -> None:
    """Train, measure and publish round `id_`; round 0 publishes the base as it is. Safe to repeat after any death.

    A round that was killed goes on from its newest complete checkpoint. Raises `Fatal` for a student that can't be
    loaded, OSError when the disk refuses, and `Fenced` when a newer trainer has taken over; `current` then stays.
    """
    processes = processes or ProcessGroup()
    round_ = dataset.round(id_)
    manifest: Manifest | None = processes.compute_on_first(lambda: begin(store, round_, epoch))
    if manifest is None:
        origins = dataset.origins(round_) if processes.is_first and round_.id else []
        runner = RoundRunner(round_, dataset, origins, store, common, own, processes, human_sets(own), report_progress)
        candidate = train_together(runner)
        if candidate is None:
            return
        manifest = publish_candidate(candidate, runner, epoch)
        keep_current_cosines(dataset, store, common, candidate.model if store.current() == manifest.id else None)
        shutil.rmtree(runner.folder.parent, ignore_errors=True)  # older rounds' leftovers too
    report_progress(last_progress(manifest))


def human_sets(own: TrainerSettings) -> dict[str, StsFile]:
    """Human-scored sets by name. Raises `Fatal`."""
    return sts_files(own.sts, "PAIRWRIGHT_TRAINER_STS") if own.sts else {}


def train_together(runner: "RoundRunner") -> Candidate | None:
    """What comes of a round, in its first process; None in the others, whose work ends here."""
    round_ = runner.round
    runner.report_progress(Progress(state="preparing" if round_.id else "publishing"))
    with tracing.span("train", round=round_.id, pairs=round_.pairs):
        candidate = runner.train() if round_.id else runner.untrained()
    runner.processes.leave()
    return candidate if runner.processes.is_first else None


def publish_candidate(candidate: Candidate, runner: "RoundRunner", epoch: int) -> Manifest:
    """Publish it, or put it among the rejected. Raises OSError and `Fenced`."""
    runner.report_progress(Progress(state="publishing"))
    with tracing.span("publish", round=runner.round.id):
        manifest = publish(candidate, runner.store, runner.own, epoch)
        tracing.set_attributes(version=manifest.id, rejected=int(manifest.rejection is not None))
    return manifest


def keep_current_cosines(dataset: Dataset, store: ModelStore, common: Settings, model: Any = None) -> None:
    """Those of the version that is current now, which is `model` unless that is None."""
    current = store.current()
    if current is None:
        return
    try:
        model = model or encoder.load(str(store.path(current)), f"version {current}")
    except (Fatal, NoVersion) as error:
        log.warning("no pair gets a cosine by %s: %s", current, error)
        return
    keep_cosines(dataset, common.dataset_dir, current, partial(encoder.encode, model))


def last_progress(manifest: Manifest) -> Progress:
    """What a round ends with."""
    names = {manifest.parent: "current"}
    estimates = {
        names.get(student, student): {kind: one.value for kind, one in kinds.items()}
        for student, kinds in manifest.estimates.items()
    }
    return Progress(
        state="publishing",
        version=manifest.id,
        scores=manifest.scores,
        rejection=manifest.rejection,
        held=manifest.held,
        estimates=estimates,
    )


def begin(store: ModelStore, round_: Round, epoch: int) -> Manifest | None:
    """Repair the store; the version of this very round, if a death came between its publication and its record."""
    store.fence(epoch)
    if (repaired := repair(store)) is not None:
        log.error("the current version was damaged: %s", repaired)
    facts = (round_.id, round_.base, round_.dataset_hash)
    for manifest in [*store.versions(), *store.rejected()]:
        if (manifest.round, manifest.base, manifest.dataset_hash) == facts:
            if manifest.rejection is None:
                store.promote(manifest.id)
            return manifest
    return None


@dataclass(frozen=True)
class RoundRunner:
    """What is done before there is a candidate."""

    round: Round
    dataset: Dataset | None
    """None on another machine than the dataset's: the rows are prepared then."""
    origins: list[Origin]
    """Who wrote the round's pairs; what the first process knows counts."""
    store: ModelStore
    common: Settings
    own: TrainerSettings
    processes: ProcessGroup
    human: dict[str, StsFile]
    """Human-scored sets by name."""
    report_progress: ReportProgress

    @property
    def folder(self) -> Path:
        """The round's working files."""
        return self.common.dataset_dir / "rounds" / str(self.round.id)

    def untrained(self) -> Candidate:
        """Round 0: the base as it is."""
        return self._candidate(self._load(None))

    def prepare(self, processes: int) -> None:
        """Write the rows for so many processes that have no dataset."""
        start = self._start()
        model = self._load(start)
        self._prepare(self._recipe(model), start, not encoder.is_static(model), processes)

    def check_prepared(self) -> None:
        """Raise `Fatal` where another process has prepared the rows and this one doesn't see them."""
        if not (self.folder / PLAN).is_file():
            raise Fatal(f"PAIRWRIGHT_HOME: {self.folder} isn't seen by all machines of the cluster: have them share it")

    def _recipe(self, model: Any) -> Recipe:
        static = encoder.is_static(model)
        learns = learns_teacher(self.round.base, self.common.teacher, static)
        return recipe_for(self.own, static, encoder.dimensions(model), self.round.seed, learns)

    def train(self) -> Candidate:
        """Prepare the rows, then fine-tune. All processes come here."""
        start = self._start()
        model = self._load(start)
        static, recipe = encoder.is_static(model), self._recipe(model)
        began = time.monotonic()
        self.processes.compute_on_first(partial(self._prepare, recipe, start, not static, self.processes.size))
        prepare_s = round(time.monotonic() - began, 1)
        rows, corpus = split.prepared(self.folder / "rows"), retrieval.prepared(self.folder / "corpus")
        if rows is None or not (rows.stats.train or corpus):
            raise Fatal(f"round {self.round.id} has no rows to train on: {recipe.loss} needs pairs that score higher")
        recipe = recipe.for_rows(rows.stats.train, static)
        if not static and self.round.base not in MADE_STUDENTS and not (corpus and corpus.stats.short_texts):
            recipe = replace(recipe, teacher_embeddings=0)  # pairs and queries alone teach it
        if rows.dev_problem is not None and rows.stats.train:
            log.warning("round %d has no dev scores: %s", self.round.id, rows.dev_problem)
        eval_pairs, selected_by = self._eval_pairs(rows)
        before = score_student(model, rows, self.human) if self.processes.is_first else StudentScores()
        base = self._load(None)
        estimators = list[Estimator]()
        self.processes.compute_on_first(lambda: estimators.extend(self._estimators(rows, corpus, base)))
        # A warm start is prepared already.
        prepared = self._prepare_student(model, recipe, corpus) if start is None else {}
        outcome = None
        if rows.stats.train:
            self.report_progress(Progress(state="training"))
            train, checkpoints = self.folder / "rows" / split.TRAIN, self.folder / "checkpoints"
            inputs = fit.TrainingInputs(train, eval_pairs, checkpoints, self.own.checkpoint_seconds)
            outcome = fit.train(model, recipe, inputs, self.report_progress)
        if not static and corpus is not None:
            nearest = partial(self._nearest, corpus) if self.own.embeddings is not None else None
            workplace = queries.Workplace(self.folder, self.own.checkpoint_seconds, self.processes, nearest)
            prepared |= queries.learn(model, recipe, corpus, workplace, self.report_progress)
        mixture = mix(base, model, estimators)
        return self._candidate(
            mixture.model,
            base=base,
            estimators=estimators,
            share=mixture.share,
            start=start,
            split=rows,
            recipe=recipe,
            selected_by=selected_by if eval_pairs else None,
            outcome=outcome,
            before=before,
            preparation={"teacher_embeddings": 0, "teacher_embeddings_s": 0.0} | prepared | {"prepare_s": prepare_s},
            corpus=corpus.stats if corpus is not None else None,
            origins=self.origins,
        )

    def _estimators(self, rows: split.Split, corpus: Corpus | None, base: Any) -> list[Estimator]:
        """What candidates are measured by; [] where the gate is off or the dataset is too small."""
        if self.own.gate == "off":
            return []
        self.report_progress(Progress(state="measuring"))
        cache, name = self.common.cache_dir, self.own.estimate_teacher
        source = locate.teacher_folder(teacher.locate(name, cache, ESTIMATE_TEACHER))
        students = [partial(encoder.encode, base)]
        if (self.round.base, self.common.teacher) != ("default", name):
            neighbours = encoder.load(locate.locate("default", name, cache), ESTIMATE_TEACHER)
            students.append(partial(encoder.encode, neighbours))
        train = self.folder / "rows" / split.TRAIN
        kept = self.common.dataset_dir / f"mutual-information-{locate.identity(source)}.npz"
        held_out, texts = None, embedding_cache.column(train, 0)
        if corpus is not None:
            held_out = build.HeldOut(corpus.queries(held_out=True), corpus.searched())
            if corpus.stats.short_texts:
                texts = chain(texts, corpus.searched())
            elif not rows.stats.train:  # queries are as short as the texts of pairs, and as near to one another
                texts = (query for side in (True, False) for query, _ in corpus.queries(side))
        return build.estimators(
            texts,
            embedding_cache.column(train, 1),
            rows.dev,
            held_out,
            students,
            build.LanguageModel(partial(Likelihood, source, ESTIMATE_TEACHER), kept),
            lambda done, count: self.report_progress(Progress(state="measuring", step=done, steps=count)),
        )

    def _prepare_student(self, model: Any, recipe: Recipe, corpus: Corpus | None) -> dict[str, float]:
        """What a student takes before it trains; what the manifest says of it."""
        most, told = recipe.teacher_embeddings, dict[str, float]()
        short = corpus is not None and corpus.stats.short_texts
        texts = embedding_cache.sample_texts(self.folder / "rows" / split.TRAIN, most) if most else []
        if most and corpus is not None and short:
            texts = [*texts, *corpus.texts(min(most - len(texts), MOST_SHORT_TEXTS))]
        if len(texts) >= ridge.FEWEST:  # a teacher that nobody needs may be out of reach
            source = locate.teacher_folder(teacher.locate(self.common.teacher, self.common.cache_dir))
            fit_to_teacher = partial(
                preparation.fit_to_teacher,
                model,
                texts,
                source,
                embedding_cache.cache_file(self.common.dataset_dir, locate.identity(source)),
                self._found,
                self.round.base == "compact",
                lambda state, step, steps: self.report_progress(Progress(state=state, step=step, steps=steps)),
            )
            told |= self.processes.compute_on_first(fit_to_teacher)  # training begins with the first one's weights
        # What has a text's words is no answer to it: short texts are alike by what they mean, which the teacher tells.
        if corpus is not None and (not short or (encoder.is_static(model) and not most)):
            self.report_progress(Progress(state="reading the corpus"))
            told |= preparation.add_corpus_terms(model, corpus)
        return told

    def _found(self, texts: Sequence[str]) -> Mapping[str, Any]:
        if self.own.embeddings is None:
            return {}
        return embedding_shards.opened(self.own.embeddings, self.common.teacher).find(texts)

    def _nearest(self, corpus: Corpus, asked: Sequence[str], most: int) -> list[str]:
        assert self.own.embeddings is not None
        shards = embedding_shards.opened(self.own.embeddings, self.common.teacher)
        source = locate.teacher_folder(teacher.locate(self.common.teacher, self.common.cache_dir))
        return shards.nearest(PromptEOLEncoder(source).encode(asked), most, corpus.held_out(), split.digest)

    def _candidate(self, model: Any, **trained: Any) -> Candidate:
        dataset, name = self.common.dataset, self.common.teacher
        return Candidate(model=model, round=self.round, dataset=dataset, teacher=name, human=self.human, **trained)

    def _load(self, start: str | None) -> Any:
        if start is not None:
            return encoder.load(str(self.store.path(start)), f"version {start}")
        return encoder.load(locate.locate(self.round.base, self.common.teacher, self.common.cache_dir), SETTING)

    def _start(self) -> str | None:
        """The version to go on from, if it is still sound."""
        try:
            if self.round.start is not None:
                self.store.verify(self.round.start)
            return self.round.start
        except (NoVersion, BrokenVersion) as error:
            log.warning("the round starts from the base: %s", error)
            return None

    def _prepare(self, recipe: Recipe, start: str | None, learns_queries: bool, processes: int) -> None:
        """Write the rows, unless a run that was killed has written the same ones."""
        plan: dict[str, Any] = {  # all that the rows and checkpoints in the folder depend on
            **{name: getattr(self.round, name) for name in ("dataset_hash", "base", "seed")},
            "start": start,
            "replay": self.own.replay if start else None,
            "select_on": self.own.select_on,
            "recipe": recipe.describe(),
            "code_version": __version__,
            "processes": processes,
        }
        file, target = self.folder / PLAN, self.folder / "rows"
        is_same = file.is_file() and json.loads(file.read_text()) == plan
        if is_same and split.prepared(target) is not None:  # written after the corpus
            return
        if self.dataset is None:
            raise Fatal(f"{self.folder} was prepared by other code than this machine's")
        if not is_same:
            shutil.rmtree(self.folder, ignore_errors=True)  # settings were changed: its checkpoints mean nothing now
            self.folder.mkdir(parents=True)
            file.write_text(json.dumps(plan))
        os.environ["SQLITE_TMPDIR"] = str(self.folder)  # sorting millions of pairs takes room that /tmp may not have
        retrieval.prepare(self.dataset, self.round, self.folder / "corpus", learns_queries)
        try:
            split.prepare(self.dataset.pairs(self.round), recipe, target, self._replay(self.dataset, start))
        except split.NoNewPairs:
            split.prepare(self.dataset.pairs(self.round), recipe, target)

    def _replay(self, dataset: Dataset, start: str | None) -> split.Replay | None:
        """A warm start takes the pairs that the version was not trained on, and a share of the old ones."""
        if start is None:
            return None
        last_old = next((one.last_pair for one in dataset.rounds() if one.version == start), 0)
        new = dataset.count_after(self.round, last_old)
        old = self.round.pairs - new
        return split.Replay(last_old, min(1.0, self.own.replay * new / old) if old else 1.0)

    def _eval_pairs(self, rows: split.Split) -> tuple[list[Row], str]:
        """The pairs that choose the checkpoint, and what the manifest says of them. Raises `Fatal`."""
        name = self.own.select_on
        if name == GENERATED:
            return rows.eval_pairs, "generated dev pairs"
        if name not in self.human:
            names = ", ".join(self.human) or "none: set PAIRWRIGHT_TRAINER_STS"
            raise Fatal(f"PAIRWRIGHT_TRAINER_SELECT_ON: there is no STS file {name!r}; there is {names}")
        return self.human[name].rows, f"human-scored pairs: {name}"
