"""`python -m services.trainer evaluate MODEL --sts DIR`: how a student ranks human-scored pairs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from services.trainer.dataset.files import Row, our_columns, read
from services.trainer.evaluation.metrics import Quality, measure
from services.trainer.evaluation.sts import SUFFIX, StsFile, Undefined, sts_files
from services.trainer.models import encoder
from services.trainer.students import locate, names
from shared import teacher
from shared.errors import Fatal, first_line
from shared.manifest import VERSION_ID
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.settings import Settings


def print_scores(
    settings: Settings, model: str, sts: Path | None, data: list[str], tasks: list[str], as_json: bool, details: bool
) -> None:
    """Print Spearman x 100 for every set and their average. Raises `Fatal`."""
    if not (sts or data or tasks):
        raise Fatal("evaluate: name what to score on, with --sts DIR, --data SET or --mteb TASK")
    sets = {name: (f"{sts / name}{SUFFIX}", file) for name, file in sts_files(sts).items()} if sts else {}
    sets |= {name: (f"--data {name}", _pair_set(name)) for name in data}
    student = encoder.load(_locate(settings, model), "MODEL")
    qualities: dict[str, Quality] = {}
    for name, (where, file) in sets.items():
        try:
            qualities[name] = measure(partial(encoder.encode, student), file)
        except Undefined as error:
            raise Fatal(f"{where}: no correlation: {error}") from None
    scores = {name: quality.spearman for name, quality in qualities.items()}
    if scores:
        scores["average"] = round(sum(scores.values()) / len(scores), 2)
    mteb = _mteb_scores(student, tasks) if tasks else {}
    if not as_json:
        print(_text(model, qualities, scores, mteb))
    elif details:
        by_set = {name: quality.as_json() for name, quality in qualities.items()}
        print(json.dumps({"average": scores.get("average"), "sets": by_set, "mteb": mteb}))
    else:
        print(json.dumps(scores | mteb))


def table(scores: Mapping[str, float], title: str) -> str:
    """Names and scores in two columns, under a title."""
    width = max(map(len, scores))
    return "\n".join([title, *(f"  {name:<{width}}  {value:6.2f}" for name, value in scores.items())])


def _text(model: str, qualities: Mapping[str, Quality], scores: Mapping[str, float], mteb: Mapping[str, float]) -> str:
    subsets = (part for one in qualities.values() for part in one.subsets)
    width = max(len(name) + 2 for name in [*qualities, *subsets, "average"])
    title = f"{model}: Spearman x 100 over all pairs of a set, 95 % interval (bootstrap), alignment, uniformity"
    head = f"  {'set':<{width}}  {'pairs':>6}  {'score':>6}  {'interval':>14}  {'align':>6}  {'uniform':>7}"
    lines = [title, head] if qualities else []
    for name, one in qualities.items():
        interval = f"{one.low:.2f} to {one.high:.2f}"
        alignment = "-" if one.alignment is None else f"{one.alignment:.3f}"
        numbers = f"{one.spearman:6.2f}  {interval:>14}  {alignment:>6}  {one.uniformity:7.3f}"
        lines.append(f"  {name:<{width}}  {one.pairs:>6}  {numbers}")
        for part, (pairs, value) in one.subsets.items() if len(one.subsets) > 1 else ():
            lines.append(f"    {part:<{width - 2}}  {pairs:>6}  {'-' if value is None else f'{value:.2f}':>6}")
    if scores:
        lines.append(f"  {'average':<{width}}  {'':>6}  {scores['average']:6.2f}")
    if mteb:
        lines.append(table(mteb, f"{model}: MTEB main scores x 100"))
    return "\n".join(lines)


def _locate(settings: Settings, model: str) -> str:
    """A published version, checked; the untrained default student; or any model. Raises `Fatal`."""
    if model == "default":
        return locate.locate(model, settings.teacher, settings.cache_dir)
    if model not in ("current", "previous") and not VERSION_ID.match(model):
        return teacher.folder_or_hub_id(model, "MODEL", *names.MODEL_FILES)
    store = ModelStore(settings.models_dir)
    try:
        if any(one.id == model for one in store.rejected()):
            return str(store.rejected_path(model))
        version = store.resolve(model)
        store.verify(version)
        return str(store.path(version))
    except (NoVersion, BrokenVersion) as error:
        raise Fatal(f"MODEL: {error} (PAIRWRIGHT_HOME is {settings.home})") from None


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
