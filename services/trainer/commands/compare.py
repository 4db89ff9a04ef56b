"""`python -m services.trainer evaluate MODEL --against BASE`: what changed, with the intervals of the differences."""

import json
import sys
from typing import Any

from services.trainer.commands.evaluate import TITLES, Found, Result, Sources, load_student, number, read_sets
from shared.errors import Fatal
from shared.settings import Settings

EXAMPLES = 3
"""Queries of a set that are shown, of those whose first document changed."""


def print_changes(settings: Settings, model: str, base: str, sources: Sources, as_json: bool) -> None:
    """Print both students' measures and their differences, set by set; with `as_json` on stderr, and one object.

    Both are scored on the same items, so the interval of a difference is narrower than the two differ. Raises `Fatal`.
    """
    if sources.mteb:
        raise Fatal("--mteb: can't be compared with --against; score each student alone")
    sets = read_sets(sources)
    before, after = load_student(settings, base, "--against"), load_student(settings, model, "MODEL")
    out = sys.stderr if as_json else sys.stdout
    print(f"{base} -> {model}: x 100 and the bootstrap's 95 % interval", file=out, flush=True)
    compared = dict[str, dict[str, Any]]()
    for one in sets:
        old, new = one.score(before), one.score(after)
        compared[one.name] = _compare(old, new)
        print(_lines(old, new), file=out, flush=True)
    if as_json:
        print(json.dumps(compared))


def _compare(old: Result, new: Result) -> dict[str, Any]:
    return {
        "size": old.size,
        "before": {key or "spearman": one.as_json() for key, one in old.measures.items()},
        "after": {key or "spearman": one.as_json() for key, one in new.measures.items()},
        "change": {key or "spearman": one.change(new.measures[key]).as_json() for key, one in old.measures.items()},
        "examples": _examples(old, new),
    }


def _examples(old: Result, new: Result) -> list[dict[str, Any]]:
    """The first queries, as they stand in the set, whose first document is another one now."""
    changed = [(one, two) for one, two in zip(old.first, new.first, strict=True) if one.document != two.document]
    return [{"query": one.query, "before": _shown(one), "after": _shown(two)} for one, two in changed[:EXAMPLES]]


def _shown(found: Found) -> dict[str, Any]:
    return {"document": found.document, "relevant": found.relevant}


def _lines(old: Result, new: Result) -> str:
    lines = [f"  {old.name}  ({old.size})"]
    for key, one in old.measures.items():
        change = one.change(new.measures[key])
        lines.append(f"    {TITLES[key]:<17}  {number(one)} -> {number(new.measures[key])}, change {number(change)}")
    return "\n".join(lines)
