"""Tables of what a run of `make adapt` or `make demo` came to: before, after, and how sure the change is."""

import textwrap
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from shared.manifest import Manifest

TITLES = {"ndcg@10": "nDCG@10", "recall@10": "recall@10", "mrr@10": "MRR@10", "v": "V-measure", "map": "MAP"}
SHOWN = 240  # characters of a passage


def measures_table(manifest: Manifest, measured: Mapping[str, Any]) -> Table:
    """The label-free estimate, and what `evaluate --against` printed."""
    table = Table("measure, x 100, with its 95 % interval", title="Before and after", title_justify="left")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right")
    base, own = (manifest.estimates.get(student, {}) for student in ("base", "candidate"))
    changes = manifest.gate.get("compared", {}).get("base", {})
    for kind, estimate in own.items():
        rows = (base[kind].model_dump(), estimate.model_dump(), changes.get(kind, {"value": None}))
        table.add_row(f"label-free estimate: {kind}", *map(_number, rows), end_section=kind == [*own][-1])
    for name, one in measured.items():
        for key in one["before"]:
            title = f"{name}: {TITLES.get(key, key)}"
            table.add_row(title, *(_number(one[when][key]) for when in ("before", "after", "change")),
                          end_section=key == [*one["before"]][-1])  # fmt: skip
    return table


def examples_table(measured: Mapping[str, Any]) -> Table | None:
    """Queries whose first passage changed, of the last set that has some; what people judged comes last."""
    examples = [one["examples"] for one in measured.values() if one["examples"]]
    if not examples:
        return None
    table = Table("query", "first before", "first after", title="First passages that changed", title_justify="left")
    for example in examples[-1]:
        table.add_row(example["query"], *(_passage(example[when]) for when in ("before", "after")), end_section=True)
    return table


def _passage(found: Mapping[str, Any]) -> str:
    mark = "right: " if found["relevant"] else ""
    return mark + textwrap.shorten(found["document"], SHOWN, placeholder=" ...")


def _number(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    interval = "" if one.get("low") is None else f" [{one['low']:.1f} to {one['high']:.1f}]"
    return f"{one['value']:.1f}{interval}"
