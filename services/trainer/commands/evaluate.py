"""`python -m services.trainer evaluate MODEL`: how a student does on what people judged."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from services.trainer.commands.encoding import ObservedEncoder
from services.trainer.dataset.files import Row, our_columns, read
from services.trainer.evaluation import human
from services.trainer.evaluation.human import Measure
from services.trainer.evaluation.judged import (
    LabelledSet,
    PairSet,
    RetrievalSet,
    read_labelled,
    read_pairs,
    read_retrieval,
    set_name,
)
from services.trainer.evaluation.metrics import Quality, measure
from services.trainer.evaluation.sts import SUFFIX, StsFile, Undefined, sts_files
from services.trainer.models import encoder
from services.trainer.students import locate, names
from shared import teacher
from shared.errors import Fatal, first_line
from shared.manifest import VERSION_ID
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.settings import MADE_STUDENTS, Settings, student_name

TITLES = {
    "": "Spearman",
    "ndcg@10": "nDCG@10",
    "recall@10": "recall@10",
    "mrr@10": "MRR@10",
    "v": "V-measure",
    "nearest": "nearest",
    "map": "MAP",
    "ap": "average precision",
}
TITLE = "x 100 and the bootstrap's 95 % interval"


@dataclass(frozen=True)
class Sources:
    """What to score on, by the command's options."""

    sts: Path | None = None
    data: list[str] = field(default_factory=list)
    beir: list[Path] = field(default_factory=list)
    labelled: list[Path] = field(default_factory=list)
    pairs: list[Path] = field(default_factory=list)
    mteb: list[str] = field(default_factory=list)


class Found(NamedTuple):
    """What a query finds first."""

    query: str
    document: str
    relevant: bool


@dataclass(frozen=True)
class Result:
    """One student on one set."""

    name: str
    size: str
    """How many items of what kind."""
    measures: Mapping[str, Measure]
    quality: Quality | None = None
    """Of pairs with scores."""
    first: Sequence[Found] = ()
    """By query, the document that is found first."""

    @property
    def scores(self) -> dict[str, float]:
        """For the flat object: Spearman under the set's own name, other measures behind it."""
        return {f"{self.name}.{key}" if key else self.name: one.value for key, one in self.measures.items()}

    def as_json(self) -> dict[str, Any]:
        """For `--json --details`."""
        if self.quality is not None:
            return self.quality.as_json()
        return {"size": self.size, **{key: one.as_json() for key, one in self.measures.items()}}


Work = Callable[[ObservedEncoder], Result]


@dataclass(frozen=True)
class JudgedSet:
    """A set that students are scored on."""

    name: str
    where: str
    """Its folder or file."""
    work: Work

    def score(self, student: ObservedEncoder) -> Result:
        """How a student does on it. Raises `Fatal` where it has no score."""
        student.begin(self.name)
        try:
            return self.work(student)
        except Undefined as error:
            raise Fatal(f"{self.where}: no score: {error}") from None


def print_scores(settings: Settings, model: str, sources: Sources, as_json: bool, details: bool) -> None:
    """Print what every set says, each as soon as it is known; with `as_json` on stderr, and one object at the end.

    Raises `Fatal`, for a bad file before anything is encoded.
    """
    work = read_sets(sources)
    student = load_student(settings, model, "MODEL")
    out = sys.stderr if as_json else sys.stdout
    results: list[Result] = []
    if work:
        print(f"{model}: {TITLE}", file=out, flush=True)
    for one in work:
        results.append(one.score(student))
        print(_lines(results[-1], max(len(each.name) for each in work)), file=out, flush=True)
    scores = {key: value for one in results for key, value in one.scores.items()}
    spearman = [one.quality.spearman for one in results if one.quality is not None]
    average = {"average": round(sum(spearman) / len(spearman), 2)} if spearman else {}
    mteb = _mteb_scores(student.model, sources.mteb) if sources.mteb else {}
    if not as_json:
        for title, values in (("Spearman of scored pairs", average), ("MTEB main scores", mteb)):
            if values:
                print(table(values, title))
    elif details:
        sets = {one.name: one.as_json() for one in results}
        print(json.dumps({"average": average.get("average"), "sets": sets, "mteb": mteb}))
    else:
        print(json.dumps(scores | average | mteb))


def read_sets(sources: Sources) -> list[JudgedSet]:
    """Every set, read. Raises `Fatal` for a bad file, or if there is none at all."""
    sets, taken = list[JudgedSet](), set[str]()
    for name, where, work in _all_work(sources):
        name = where if name in taken else name  # two files of one name are told apart by their paths
        taken.add(name)
        sets.append(JudgedSet(name, where, work))
    if not (sets or sources.mteb):
        raise Fatal(
            "evaluate: name what to score on, with --sts DIR, --beir DIR, --labelled FILE, --pairs FILE, --data SET or"
            " --mteb TASK"
        )
    return sets


def load_student(settings: Settings, model: str, option: str) -> ObservedEncoder:
    """The student that is named. Raises `Fatal`."""
    return ObservedEncoder(encoder.load(_locate(settings, model, option), option))


def table(scores: Mapping[str, float], title: str) -> str:
    """Names and scores in two columns, under a title."""
    width = max(map(len, scores))
    return "\n".join([title, *(f"  {name:<{width}}  {value:6.2f}" for name, value in scores.items())])


def _all_work(sources: Sources) -> Iterator[tuple[str, str, Work]]:
    if sources.sts:
        for name, pairs in sts_files(sources.sts).items():
            yield name, f"{sources.sts / name}{SUFFIX}", partial(_score_pairs, pairs)
    for name in sources.data:
        yield name, f"--data {name}", partial(_score_pairs, _pair_set(name))
    for folder in sources.beir:
        yield set_name(folder), str(folder), partial(_score_retrieval, read_retrieval(folder, "--beir"))
    for file in sources.labelled:
        yield set_name(file), str(file), partial(_score_grouping, read_labelled(file, "--labelled"))
    for file in sources.pairs:
        yield set_name(file), str(file), partial(_score_marked_pairs, read_pairs(file, "--pairs"))


def _score_pairs(file: StsFile, student: ObservedEncoder) -> Result:
    quality = measure(student.sentences, file)
    spearman = Measure(quality.spearman, quality.low, quality.high)
    return Result(student.name, f"{quality.pairs} pairs", {"": spearman}, quality)


def _score_retrieval(given: RetrievalSet, student: ObservedEncoder) -> Result:
    queries, documents = student.queries(given.queries), student.documents(given.documents)
    size = f"{len(given.queries)} queries, {len(given.documents)} documents"
    measures, first = human.retrieval(queries, documents, given.relevant)
    found = [
        Found(query, given.documents[place], place in relevant)
        for query, place, relevant in zip(given.queries, first, given.relevant, strict=True)
    ]
    return Result(student.name, size, measures, first=found)


def _score_grouping(given: LabelledSet, student: ObservedEncoder) -> Result:
    size = f"{len(given.texts)} texts, {len(set(given.labels))} labels"
    return Result(student.name, size, human.grouping(student.sentences(given.texts), given.labels))


def _score_marked_pairs(given: PairSet, student: ObservedEncoder) -> Result:
    one, other = student.sentences(given.sentence1), student.sentences(given.sentence2)
    return Result(student.name, f"{len(given.same)} pairs", human.pairs(one, other, given.same))


def _lines(result: Result, width: int) -> str:
    """A set's row, and one for each of its subsets."""
    numbers = "  ".join(f"{TITLES[key]} {number(one)}" for key, one in result.measures.items())
    quality = result.quality
    if quality is not None:
        alignment = "-" if quality.alignment is None else f"{quality.alignment:.3f}"
        numbers += f"  alignment {alignment}  uniformity {quality.uniformity:.3f}"
    lines = [f"  {result.name:<{width}}  {numbers}  ({result.size})"]
    subsets = quality.subsets if quality is not None and len(quality.subsets) > 1 else {}
    for part, (pairs, value) in subsets.items():
        lines.append(f"    {part:<{width - 2}}  Spearman {'-' if value is None else f'{value:.2f}'}  ({pairs} pairs)")
    return "\n".join(lines)


def number(one: Measure) -> str:
    """A measure with its interval."""
    return f"{one.value:.2f}" + ("" if one.low is None else f" [{one.low:.2f} to {one.high:.2f}]")


def _locate(settings: Settings, model: str, option: str) -> str:
    """A published version, checked; an untrained student that is made of the teacher; or any model. Raises `Fatal`."""
    model = student_name(model)
    if model in MADE_STUDENTS:
        return locate.locate(model, settings.teacher, settings.cache_dir)
    if model not in ("current", "previous") and not VERSION_ID.match(model):
        return teacher.folder_or_hub_id(model, option, *names.MODEL_FILES)
    store = ModelStore(settings.models_dir)
    try:
        if any(one.id == model for one in store.rejected()):
            return str(store.rejected_path(model))
        version = store.resolve(model)
        store.verify(version)
        return str(store.path(version))
    except (NoVersion, BrokenVersion) as error:
        raise Fatal(f"{option}: {error} (PAIRWRIGHT_HOME is {settings.home})") from None


def _pair_set(name: str) -> StsFile:
    """A file, or a data set of the hub as NAME or NAME:SPLIT (`test` when it isn't said). Raises `Fatal`."""
    if Path(name).is_file():
        return _rows(name, (row for _, row in read(Path(name))))
    if name.startswith((".", "/", "~")) or Path(name).suffix in (".parquet", ".jsonl", ".csv", ".tsv"):
        raise Fatal(f"--data: there is no file {name!r}")
    from datasets import load_dataset

    repo, _, split = name.partition(":")
    try:
        return _rows(name, load_dataset(repo, split=split or "test"))
    except Fatal:
        raise
    except Exception as error:  # a dozen classes of the hub's, of httpx and of the system
        raise Fatal(f"--data: can't get {name!r} from the hub: {first_line(error)}") from None


def _mteb_scores(model: Any, tasks: Sequence[str]) -> dict[str, float]:
    """The main score x 100 of each MTEB task. Raises `Fatal` without `mteb`, for an unknown task or without a hub."""
    try:
        import mteb
    except ImportError:
        raise Fatal("--mteb: needs the package mteb: .venv/bin/python -m pip install mteb") from None
    try:
        results = mteb.evaluate(model, mteb.get_tasks(tasks=list(tasks)), overwrite_strategy="always")
        return {result.task_name: round(100 * float(result.get_score()), 2) for result in results}
    except Exception as error:  # unknown tasks, and whatever downloading raises
        raise Fatal(f"--mteb: {first_line(error)}") from None


def _rows(name: str, rows: Iterable[Row]) -> StsFile:
    scored = []
    for number, row in enumerate(rows, start=1):
        one, other, score = our_columns(row).values()
        if not isinstance(one, str) or not isinstance(other, str):
            raise Fatal(f"--data {name}, row {number}: has no sentence1 and sentence2")
        try:
            scored.append((one, other, float(str(score))))
        except (TypeError, ValueError):
            raise Fatal(f"--data {name}, row {number}: the score {score!r} is not a number") from None
    return StsFile(scored, [""] * len(scored))
