"""`python -m services.trainer evaluate MODEL --sts DIR`: how a student ranks human-scored pairs."""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from services.trainer.commands.score_sets import mteb_scores, pair_set
from services.trainer.evaluation.metrics import Quality, measure
from services.trainer.evaluation.sts import SUFFIX, StsFile, Undefined, sts_files
from services.trainer.students import locate, names
from shared import teacher
from shared.errors import Fatal
from shared.manifest import VERSION_ID
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.settings import Settings


def evaluate(settings: Settings, given: argparse.Namespace) -> None:
    """Print Spearman x 100 for every set and their average. Raises `Fatal`."""
    if given.sts is None and not given.data and not given.mteb:
        raise Fatal("evaluate: name what to score on, with --sts DIR, --data SET or --mteb TASK")
    sets: dict[str, tuple[str, StsFile]] = {}
    if given.sts is not None:
        sets |= {name: (f"{given.sts / name}{SUFFIX}", file) for name, file in sts_files(given.sts).items()}
    sets |= {name: (f"--data {name}", pair_set(name)) for name in given.data}
    located = _locate(settings, given.model)
    from services.trainer.models import encoder

    model = encoder.load(located, "MODEL")
    found = {name: _measure(partial(encoder.encode, model), *one) for name, one in sets.items()}
    scores = {name: quality.spearman for name, quality in found.items()}
    if scores:
        scores["average"] = round(sum(scores.values()) / len(scores), 2)
    tasks = mteb_scores(model, given.mteb)
    if not given.json:
        print(_spoken(given.model, found, scores, tasks))
    elif given.details:
        sets_ = {name: quality.as_json() for name, quality in found.items()}
        print(json.dumps({"average": scores.get("average"), "sets": sets_, "mteb": tasks}))
    else:
        print(json.dumps(scores | tasks))


def table(scores: Mapping[str, float], title: str) -> str:
    """Names and scores in two columns, under a title."""
    width = max(map(len, scores))
    return "\n".join([title, *(f"  {name:<{width}}  {value:6.2f}" for name, value in scores.items())])


def _measure(encode: Any, where: str, file: StsFile) -> Quality:
    try:
        return measure(encode, file)
    except Undefined as error:
        raise Fatal(f"{where}: no correlation: {error}") from None


def _spoken(model: str, found: Mapping[str, Quality], scores: Mapping[str, float], tasks: Mapping[str, float]) -> str:
    width = max(
        len(name) + 2 for name in [*found, *(part for one in found.values() for part in one.subsets), "average"]
    )
    lines = []
    if found:
        lines += [
            f"{model}: Spearman x 100 over all pairs of a set, 95 % interval (bootstrap), alignment, uniformity",
            f"  {'set':<{width}}  {'pairs':>6}  {'score':>6}  {'interval':>14}  {'align':>6}  {'uniform':>7}",
        ]
    for name, one in found.items():
        interval = f"{one.low:.2f} to {one.high:.2f}"
        alignment = "-" if one.alignment is None else f"{one.alignment:.3f}"
        lines.append(
            f"  {name:<{width}}  {one.pairs:>6}  {one.spearman:6.2f}  {interval:>14}"
            f"  {alignment:>6}  {one.uniformity:7.3f}"
        )
        for part, (pairs, value) in one.subsets.items() if len(one.subsets) > 1 else ():
            lines.append(f"    {part:<{width - 2}}  {pairs:>6}  {'-' if value is None else f'{value:.2f}':>6}")
    if scores:
        lines.append(f"  {'average':<{width}}  {'':>6}  {scores['average']:6.2f}")
    if tasks:
        lines.append(table(tasks, f"{model}: MTEB main scores x 100"))
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
