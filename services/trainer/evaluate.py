"""`python -m services.trainer evaluate MODEL --sts DIR`: how a student ranks human-scored pairs."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from services.trainer import student
from services.trainer.evaluation import SUFFIX, Undefined, score, sts_files
from shared import teacher
from shared.model_store import VERSION_ID, BrokenVersion, ModelStore, NoVersion
from shared.process import Fatal
from shared.settings import Settings


def evaluate(settings: Settings, model: str, sts: Path, as_json: bool) -> None:
    """Print Spearman x 100 for every STS file and their average. Raises `Fatal`."""
    files = sts_files(sts)
    located = _locate(settings, model)
    from services.trainer import encoder

    encode = partial(encoder.encode, encoder.load(located, "MODEL"))
    scores = {}
    for name, rows in files.items():
        try:
            scores[name] = round(score(encode, rows), 2)
        except Undefined as error:
            raise Fatal(f"{sts / name}{SUFFIX}: no correlation: {error}") from None
    scores["average"] = round(sum(scores.values()) / len(scores), 2)
    print(json.dumps(scores) if as_json else table(scores, f"{model}, Spearman x 100"))


def table(scores: Mapping[str, float], title: str) -> str:
    """Names and scores in two columns, under a title."""
    width = max(map(len, scores))
    return "\n".join([title, *(f"  {name:<{width}}  {value:6.2f}" for name, value in scores.items())])


def _locate(settings: Settings, model: str) -> str:
    """A published version, checked; the untrained default student; or any model. Raises `Fatal`."""
    if model == "default":
        return student.locate(model, settings.teacher, settings.cache_dir)
    if model not in ("current", "previous") and not VERSION_ID.match(model):
        return teacher.folder_or_hub_id(model, "MODEL", *student.MODEL_FILES)
    store = ModelStore(settings.models_dir)
    try:
        version = store.resolve(model)
        store.verify(version)
        return str(store.path(version))
    except (NoVersion, BrokenVersion) as error:
        raise Fatal(f"MODEL: {error} (PAIRWRIGHT_HOME is {settings.home})") from None
