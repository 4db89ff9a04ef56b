"""Results as a picture: one bar a row, or a curve over pairs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import Result
from experiments.table import half_width

Rows = Mapping[str, Sequence[Result]]


def draw(rows: Rows, title: str, file: Path) -> None:
    """Each row's mean on the evaluation sets, with 95 % intervals. Rows named `... pairs=N` become lines over pairs."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = all("pairs=" in name for name in rows)
    figure, axis = pyplot.subplots(figsize=(8, 3.6 if curves else 1 + 0.26 * len(rows)), layout="constrained")
    (_curves if curves else _bars)(axis, rows)
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _bars(axis: Any, rows: Rows) -> None:
    names = list(rows)[::-1]
    values = [[one["mean"] for one in rows[name]] for name in names]
    means = [float(np.mean(some)) for some in values]
    axis.barh(names, means, xerr=[half_width(some) or 0 for some in values], color="#2a6f97", height=0.7)
    for place, mean in enumerate(means):
        axis.text(min(means) - 0.9, place, f"{mean:.2f}", va="center", color="white", fontsize=8)
    axis.set_xlim(min(means) - 1, max(means) + 0.5)
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("mean Spearman x 100 on the evaluation pair sets (axis does not begin at 0)")


def _curves(axis: Any, rows: Rows) -> None:
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for name, several in rows.items():
        pairs = float(np.mean([one["pairs"] for one in several]))
        lines.setdefault(re.sub(r" ?pairs=\d+", "", name), []).append((pairs, [one["mean"] for one in several]))
    for line, points in lines.items():
        pairs_axis = [pairs for pairs, _ in points]
        means = [float(np.mean(values)) for _, values in points]
        errors = [half_width(values) or 0 for _, values in points]
        axis.errorbar(pairs_axis, means, yerr=errors, marker="o", capsize=3, label=line)
    axis.set_xscale("log")
    axis.set_xlabel("pairs trained on")
    axis.set_ylabel("mean")
    axis.legend(frameon=False, fontsize=8)
