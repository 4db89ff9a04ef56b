"""Pictures of results: `python -m experiments picture GRID FILE.png`, one bar a row, or a curve over pairs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.table import half_width

Results = Mapping[str, Sequence[Mapping[str, Any]]]


def draw(results: Results, title: str, picture: Path) -> None:
    """Label-free scores of each row, with 95 % intervals. Rows that differ in `pairs=` become lines over pairs."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = all("pairs=" in name for name in results)
    figure, axis = pyplot.subplots(figsize=(8, 3.6 if curves else 1 + 0.26 * len(results)), layout="constrained")
    (_curves if curves else _bars)(axis, results)
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def _bars(axis: Any, results: Results) -> None:
    names = list(results)[::-1]
    values = [[one["judged"] for one in results[name]] for name in names]
    means = [float(np.mean(found)) for found in values]
    axis.barh(names, means, xerr=[half_width(found) or 0 for found in values], color="#2a6f97", height=0.7)
    for place, mean in enumerate(means):
        axis.text(min(means) - 0.9, place, f"{mean:.2f}", va="center", color="white", fontsize=8)
    axis.set_xlim(min(means) - 1, max(means) + 0.5)
    axis.tick_params(axis="y", labelsize=8)
    axis.set_xlabel("judged: mean Spearman x 100 on the judging pair sets (axis does not begin at 0)")


def _curves(axis: Any, results: Results) -> None:
    lines: dict[str, list[tuple[float, list[float]]]] = {}
    for name, several in results.items():
        line = re.sub(r" ?pairs=\d+", "", name)
        lines.setdefault(line, []).append(
            (float(np.mean([one["pairs"] for one in several])), [one["judged"] for one in several])
        )
    for line, points in lines.items():
        axis.errorbar(
            [pairs for pairs, _ in points],
            [float(np.mean(values)) for _, values in points],
            yerr=[half_width(values) or 0 for _, values in points],
            marker="o",
            capsize=3,
            label=line,
        )
    axis.set_xscale("log")
    axis.set_xlabel("pairs trained on")
    axis.set_ylabel("judged")
    axis.legend(frameon=False, fontsize=8)
