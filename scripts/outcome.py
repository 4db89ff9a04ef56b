"""Tables of what a run of `make adapt` or `make demo` came to: before, after, and how sure the change is."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from shared.manifest import Manifest

TITLES = {
    "ndcg@10": "nDCG@10",
    "recall@10": "recall@10",
    "mrr@10": "MRR@10",
    "v": "V-measure",
    "map": "MAP",
    "spearman": "Spearman",
}
WHEN = ("before", "after", "change")
SHOWN = 240  # characters of a passage


def measures_table(manifest: Manifest, measured: Mapping[str, Any]) -> Table:
    """The label-free estimate, and what `evaluate --against` printed."""
    title = "Before and after, x 100, with 95 % intervals"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(min_width=19)
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    base, own = (manifest.estimates.get(student, {}) for student in ("base", "candidate"))
    changes = manifest.gate.get("compared", {}).get("base", {})
    estimates = {kind: (base[kind].model_dump(), one.model_dump(), changes.get(kind)) for kind, one in own.items()}
    _add_section(table, "label-free estimate", estimates)
    for name, one in measured.items():
        rows = {TITLES.get(key, key): tuple(one[when][key] for when in WHEN) for key in one["before"]}
        _add_section(table, name, rows)
    return table


def _add_section(table: Table, name: str, rows: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> None:
    if rows:
        table.add_row(f"[bold]{escape(name)}")
    for number, (title, (before, after, change)) in enumerate(rows.items(), start=1):
        values = _number(before, 0), _number(after, 0), _number(change, 1)
        table.add_row(f"  {title}", *values, end_section=number == len(rows))


def examples_table(measured: Mapping[str, Any]) -> Table | None:
    """Queries whose first passage changed, of the last set that has some; what people judged comes last."""
    examples = [one["examples"] for one in measured.values() if one["examples"]]
    if not examples:
        return None
    table = Table("query", "first before", "first after", title="First passages that changed", title_justify="left")
    for example in examples[-1]:
        table.add_row(escape(example["query"]), *(_passage(example[when]) for when in WHEN[:2]), end_section=True)
    return table


def _passage(found: Mapping[str, Any]) -> str:
    mark = "right: " if found["relevant"] else ""
    return mark + escape(textwrap.shorten(found["document"], SHOWN, placeholder=" ..."))


def _number(one: Mapping[str, Any] | None, digits: int) -> str:
    """With its interval to so many digits: a table has to fit a terminal."""
    if one is None:
        return "-"
    interval = "" if one.get("low") is None else f" [{one['low']:.{digits}f}..{one['high']:.{digits}f}]"
    return escape(f"{one['value']:.1f}{interval}")
