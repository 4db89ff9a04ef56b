"""The steps from documents, or short texts, to a student that is better at them, on a stack: what `make adapt` does.

Everything is kept as it comes, and a step that was done is found again: after any death, the same run goes on.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from scripts import short_texts
from scripts.judgements import JudgedQuery, Judgements, write_beir
from scripts.live import LiveStack, trainer_line
from scripts.outcome import WHEN, examples_table, measures_table
from scripts.stack import HTTP_SERVICES, Stack, prepare_teacher
from shared.documents import passage_content
from shared.errors import Fatal
from shared.manifest import Manifest
from shared.model_store import ModelStore
from shared.settings import MADE_STUDENTS, Settings, learns_teacher

MOST_QUERIES, MEASURED_QUERIES = 1000, 150
"""Queries that are written where nobody says how many, fewer for a smaller corpus; and for the default student, which
learns from none: so many measure it."""
HELD_OUT, HELD_OUT_SEED = 100, 1
"""Queries that are written for measuring alone: nobody trains on them."""
MOST_SEARCHED = 20_000
"""Passages among which a held-out query looks for its own."""
MOST_INPUTS = 300
"""Short texts that pairs are written for where nobody says how many; none where the student learns from the teacher."""
NEVER = "1000000000"
ON_REQUEST = {"PAIRWRIGHT_TRAINER_ROUND_PAIRS": NEVER, "PAIRWRIGHT_TRAINER_ROUND_SECONDS": NEVER}
"""A round begins when we ask for one: when all queries are there."""
STATUS_WITHIN_S = 3.0
"""The trainer says how much it has every 2 seconds."""
DONE = ("complete", "exhausted")


@dataclass(frozen=True)
class Request:
    """What a person asks for."""

    corpus: Path
    settings: Settings
    judged: Judgements = field(default_factory=Judgements)
    queries: int | None = None


@dataclass
class Adaptation:
    """One run on a stack that is up."""

    request: Request
    live: LiveStack
    seconds: dict[str, float] = field(default_factory=dict)
    """By step."""

    def __post_init__(self) -> None:
        self.store, self.console = ModelStore(self.request.settings.models_dir), self.live.console
        self._key = f"adapt-{_digest(self.request.corpus)}"

    def run(self) -> dict[str, Any]:
        """All steps. Returns the result; raises `Fatal`."""
        with self._step("documents", "Reading and cutting documents"):
            self.live.wait_until_ready(["trainer"])
            corpus = self._add_documents()
        is_short = corpus["short_texts"]
        name, title = ("pairs", "pairs of short texts") if is_short else ("queries", "queries for passages")
        with self._step(name, f"Writing {title}"):
            self.live.wait_until_ready(HTTP_SERVICES)
            base = self._base()
            job, sets = self._write_pairs(base) if is_short else self._write_queries(corpus["passages"])
        with self._step("train", "Training"):
            manifest = self._train(corpus["passages"])
        published = manifest.rejection is None
        if published:
            with self._step("serve", "Serving"):
                self.live.wait_for_swap(manifest.id)
        with self._step("measure", "Measuring before and after"):
            measured = self._measure(manifest.id, base.id, sets)
        folder = self.store.path(manifest.id) if published else self.store.rejected_path(manifest.id)
        self._tell(manifest, folder, measured)
        before, after = ({kind: one.value for kind, one in manifest.estimates.get(student, {}).items()}
                         for student in ("base", "candidate"))  # fmt: skip
        return {
            "version": manifest.id,
            "folder": str(folder),
            "base_folder": str(self.store.path(base.id)),
            **{name: corpus[name] for name in ("documents", "passages")},
            "queries": 0 if is_short else job["accepted"],
            "pairs": job["accepted"] if is_short else 0,
            "estimate_before": before,
            "estimate_after": after,
            "measured": {name: {when: one[when] for when in WHEN} for name, one in measured.items()},
            "published": published,
            "seconds": self.seconds,
        }

    @contextlib.contextmanager
    def _step(self, name: str, title: str) -> Iterator[None]:
        began = time.monotonic()
        self.console.print(f"{title} ...")
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)

    def _add_documents(self) -> dict[str, Any]:
        """Have the corpus read and kept. Returns how many documents and passages there are now."""
        path = self.request.corpus
        if short_texts.has_one_a_line(path):
            path = short_texts.write_as_rows(path, self.request.settings.dataset_dir / "given")
            self.console.print("Each line is taken as a text of its own. In a folder, a .txt file is one document.")
        added = self.live.run("services.generation", "documents", "add", str(path), "--skip-bad", is_shown=True)
        told = json.loads(added.splitlines()[-1])
        if told["bad"]:
            self.console.print(f"{told['bad']} can't be read and are passed over; the first: {told['first_bad']}")
        self._wait_for_the_trainer()
        corpus = self.live.poll(lambda: self._get("/documents"), 120, "the trainer did not count the documents").json()
        if not corpus["passages"]:
            raise Fatal(f"CORPUS: there is no passage in {path}")
        counts = f"{corpus['documents']} documents, {corpus['passages']} passages, {corpus['duplicates']} duplicates"
        self.console.print(counts, highlight=False)
        if corpus["short_texts"]:
            self.console.print("They are short texts: they are compared with one another, and nothing asks for them.")
        return dict(corpus)

    def _wait_for_the_trainer(self) -> None:
        """Until it has kept all that was accepted, and its status says so."""
        with self.console.status("the trainer reads") as status:

            def is_kept() -> bool:
                backlog = self.live.backlog()
                self.live.report(status, f"the trainer reads: {backlog} to go")
                return backlog == 0

            self.live.poll(is_kept, 3600, "the trainer did not keep what was accepted")
        time.sleep(STATUS_WITHIN_S)

    def _get(self, path: str, **parameters: int) -> httpx.Response | None:
        """What the trainer answers; None while it doesn't."""
        with contextlib.suppress(httpx.HTTPError):
            answer = self.live.trainer.get(path, params=parameters)
            if answer.status_code == 200:
                return answer
        return None

    def _base(self) -> Manifest:
        """The untrained student that this dataset began with. Raises `Fatal` if it isn't the one that is asked for."""
        settings = self.request.settings
        base = next((version for version in self.store.versions() if version.round == 0), None)
        if base is None or base.base != settings.student:
            began = "is not kept any more" if base is None else f"was {base.base!r}"
            raise Fatal(
                f"PAIRWRIGHT_DATASET: the student that {settings.dataset!r} began with {began}; name another one"
            )
        return base

    def _write_queries(self, passages: int) -> tuple[dict[str, Any], list[Path]]:
        """Have queries written, to train on and to measure with. Returns the first job, and BEIR folders."""
        enough = MEASURED_QUERIES if self.request.settings.student == "default" else MOST_QUERIES
        job = self._job({"queries": min(passages, self.request.queries or enough)}, "queries")
        if not job["accepted"]:
            raise Fatal(f"no query was accepted of {job['samples']} that were written: {job['rejected_by_reason']}")
        trained_on = {pair["sentence1"] for pair in self._pairs(job)}
        held_out = {"queries": min(passages, HELD_OUT), "seed": HELD_OUT_SEED, "dry_run": True}
        written = self._pairs(self._job(held_out, "queries to measure with"))
        pairs = [(pair["sentence1"], pair["sentence2"]) for pair in written if pair["sentence1"] not in trained_on]
        return job, self._sets(pairs)

    def _write_pairs(self, base: Manifest) -> tuple[dict[str, Any], list[Path]]:
        """Have pairs written for some of the short texts. Returns the job, and BEIR folders where people judged."""
        sets = self._sets([]) if self.request.judged.queries else []
        settings, static = self.request.settings, base.max_seq_length is None  # a table of words reads any length
        made = settings.student in MADE_STUDENTS  # with another teacher, its settings say how many texts it learns
        learns = learns_teacher(settings.student, "default" if made else settings.teacher, static)
        wanted = self.request.queries or (0 if learns else MOST_INPUTS)
        inputs = short_texts.draw((passage["text"] for passage in self._passages()), wanted)
        if not inputs:
            self.console.print("None: the student learns from the teacher's embeddings of the texts.")
            return {"accepted": 0}, sets
        job = self._job({"task": "sts", "inputs": inputs}, "pairs")
        if not job["accepted"]:
            raise Fatal(f"no pair was accepted of {job['samples']} that were written: {job['rejected_by_reason']}")
        return job, sets

    def _sets(self, pairs: Sequence[tuple[str, str]]) -> list[Path]:
        """BEIR folders: of held-out queries with their passages, and of what people judged of these documents."""
        places, documents = dict[str, str](), dict[str, list[str]]()
        for passage in self._passages():
            places[passage_content(passage["title"], passage["text"])] = str(passage["id"])
            documents.setdefault(passage["document"], []).append(str(passage["id"]))
        places |= {passage: f"own-{number}" for number, (_, passage) in enumerate(pairs) if passage not in places}
        corpus = [(name, "", text) for text, name in places.items()]
        queries = {"held-out": [(query, [places[passage]]) for query, passage in pairs]}
        if judged := self.request.judged.queries:
            queries["judged"] = _of_passages(judged, documents)
        folder = self.request.settings.dataset_dir / "measured"
        for name, some in queries.items():
            if some:
                write_beir(folder / name, corpus, some)
        return [folder / name for name, some in queries.items() if some]

    def _job(self, plan: dict[str, Any], unit: str) -> dict[str, Any]:
        """A job's end, of the same job if this plan was asked for before. Raises `Fatal` if it fails."""
        plan = {"task": "retrieval"} | plan
        name = hashlib.sha256(json.dumps([self._key, plan], sort_keys=True).encode()).hexdigest()
        headers = {"Idempotency-Key": name}

        def submitted() -> httpx.Response | None:
            with contextlib.suppress(httpx.HTTPError):
                answer = self.live.generation.post("/generate", json=plan, headers=headers)
                # The trainer is behind, or a part is being started again.
                return None if answer.status_code in (429, 502, 503) else answer
            return None

        answer = self.live.poll(submitted, 3600, "the generation service took no job")
        if answer.status_code not in (200, 202):  # 200: the job has ended before
            raise Fatal(f"POST /generate answered {answer.status_code}: {answer.text[:300]}")
        job = self.live.follow_job(answer.headers["location"], answer.json()["requested"], unit)
        if job["state"] not in DONE:
            raise Fatal(f"the job ended {job['state']} with {job['accepted']} queries: {job['error']}")
        return job

    def _pairs(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.live.generation.get(f"/jobs/{job['id']}/pairs")
        return [json.loads(line) for line in answer.raise_for_status().text.splitlines()]

    def _passages(self) -> Iterator[dict[str, Any]]:
        """The first passages."""
        last, left = 0, MOST_SEARCHED
        while left > 0:
            page = self.live.poll(lambda: self._get("/passages", after=last, limit=1000), 120, "no passages came")  # noqa: B023
            rows = [json.loads(line) for line in page.text.splitlines()][:left]
            if not rows:
                return
            yield from rows
            last, left = rows[-1]["id"], left - len(rows)

    def _train(self, passages: int) -> Manifest:
        """Have a round run on everything, unless one has. Its version, or its candidate that isn't published."""
        if (finished := self._finished(passages)) is not None:
            self.console.print("Nothing new since the last round.")
            return finished
        with self.console.status("training") as status:
            last = self._newest()
            try:
                watch = lambda: self.live.report(status, trainer_line(self.live.trainer_status()))  # noqa: E731
                self.live.run("services.trainer", "train", "--once", watch=watch)
            except Fatal:  # also when the gate says no
                if self._newest().round == last.round:
                    raise
        return self._newest()

    def _finished(self, passages: int) -> Manifest | None:
        """What came of the last round, if it was on all pairs and passages that there are."""
        self._wait_for_the_trainer()
        trainer = self.live.poll(self.live.trainer_status, 60, "the trainer did not say what it does")
        newest = self._newest()
        is_all = (newest.pairs, newest.training.get("passages")) == (trainer["pairs"], passages)
        return newest if is_all and newest.round > 0 and not trainer["new_pairs"] else None

    def _newest(self) -> Manifest:
        """Of the last round that came to an end."""
        return max([*self.store.versions(), *self.store.rejected()], key=lambda manifest: manifest.round)

    def _measure(self, version: str, base: str, sets: Sequence[Path]) -> dict[str, Any]:
        options = [word for folder in sets for word in ("--beir", str(folder))] + self.request.judged.options
        if not options:
            return {}
        with self.console.status("measuring"):
            printed = self.live.run("services.trainer", "evaluate", version, "--against", base, *options, "--json")
        return dict(json.loads(printed.splitlines()[-1]))

    def _tell(self, manifest: Manifest, folder: Path, measured: dict[str, Any]) -> None:
        """Print what came of it."""
        self.console.print(measures_table(manifest, measured))
        if (table := examples_table(measured)) is not None:
            self.console.print(table)
        what = "published and served" if manifest.rejection is None else "not published"
        self.console.print(f"Version {manifest.id} is {what}: {manifest.gate.get('reason')}.", highlight=False)
        self.console.print(f"Report: {folder / 'report' / 'report.html'}", markup=False, soft_wrap=True)


def adapt(request: Request, console: Console) -> dict[str, Any]:
    """Start everything, adapt, end everything. Raises `Fatal`."""
    settings, began = request.settings, time.monotonic()
    prepare_teacher()
    own = {"PAIRWRIGHT_DATASET": settings.dataset, "PAIRWRIGHT_STUDENT": settings.student, **ON_REQUEST}
    with Stack(settings, own) as stack:
        live = LiveStack(stack, console)
        adaptation = Adaptation(request, live, {"start": round(time.monotonic() - began, 1)})
        result = adaptation.run()
    student = "" if settings.student == "default" else f"PAIRWRIGHT_STUDENT={settings.student} "
    command = f"PAIRWRIGHT_HOME={settings.home} PAIRWRIGHT_DATASET={settings.dataset} {student}make up"
    console.print(f"To go on serving it:\n  {command}", markup=False, soft_wrap=True)
    return result


def _of_passages(judged: Sequence[JudgedQuery], documents: Mapping[str, list[str]]) -> list[JudgedQuery]:
    """Queries with the ids of passages: of the documents that are relevant. Raises `Fatal` if none is there."""
    queries = [(query, [place for name in relevant for place in documents.get(name, [])]) for query, relevant in judged]
    if not any(relevant for _, relevant in queries):
        raise Fatal("EVAL: the corpus has no document with one of the ids that are named as relevant")
    return [(query, relevant) for query, relevant in queries if relevant]


def _digest(corpus: Path) -> str:
    """What the corpus holds, and under which names."""
    files = [corpus] if corpus.is_file() else sorted(path for path in corpus.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            name = str(file.relative_to(corpus.parent))
            digest.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
