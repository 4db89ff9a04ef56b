"""The pictures of a report, as PNG files. matplotlib without a screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from services.trainer.evaluation.sts import Row

BEFORE, AFTER = "#9aa5b1", "#1f6feb"
SHADES = ["#c0392b", "#e67e22", "#f1c40f", "#27ae60", "#16537e"]
WIDTH, HEIGHT, DPI = 6.4, 3.2, 120
SMOOTHED_OVER = 15


def _figure(height: float = HEIGHT, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, columns, sharey=True) if columns > 1 else figure.subplots()
    for one in np.ravel(np.asarray(axes, dtype=object)):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#e5e8eb", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def loss(history: Sequence[Mapping[str, float]], file: Path) -> None:
    """The loss over the steps, and its running mean."""
    steps = [point["step"] for point in history if "loss" in point]
    values = np.array([point["loss"] for point in history if "loss" in point])
    figure, axes = _figure()
    axes.plot(steps, values, color=BEFORE, linewidth=1, label="mean of the steps between two points")
    if len(values) >= 2 * SMOOTHED_OVER:
        smooth = np.convolve(values, np.ones(SMOOTHED_OVER) / SMOOTHED_OVER, mode="valid")
        half = SMOOTHED_OVER // 2
        axes.plot(steps[half : half + len(smooth)], smooth, color=AFTER, linewidth=2, label="running mean")
        axes.legend(frameon=False)
    axes.set(xlabel="step", ylabel="training loss")
    figure.savefig(file)


def dev_score(history: Sequence[Mapping[str, float]], before: float | None, best_step: int | None, file: Path) -> None:
    """The score on the pairs that choose the checkpoint, over the steps; the step that was kept is marked."""
    points = [(point["step"], point["dev"]) for point in history if "dev" in point]
    figure, axes = _figure()
    axes.plot(*zip(*points, strict=True), color=AFTER, marker="o", markersize=4, linewidth=2, label="after training")
    if before is not None:
        axes.axhline(before, color=BEFORE, linestyle="--", label="before training")
    if best := [point for point in points if point[0] == best_step]:
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": "#c0392b", "linestyle": "none"}
        axes.plot(*best[0], **ring, label="kept")
    axes.set(xlabel="step", ylabel="Spearman x 100")
    axes.legend(frameon=False)
    figure.savefig(file)


def histograms(
    dev: Sequence[Row], before: npt.NDArray[np.float64] | None, after: npt.NDArray[np.float64], file: Path
) -> None:
    """The dev pairs' cosines by label, before training and after."""
    scores = np.array([score for _, _, score in dev])
    values = np.unique(scores)
    if len(values) > len(SHADES):
        values = np.quantile(scores, np.linspace(0, 1, len(SHADES)))
    nearest = np.abs(scores[:, None] - values[None, :]).argmin(axis=1)
    sides = {"after": after} if before is None else {"before": before, "after": after}
    figure, axes = _figure(columns=len(sides))
    lowest = min(float(cosines.min()) for cosines in sides.values())
    bins = np.linspace(np.floor(lowest * 10) / 10, 1.0, 31)
    colours = SHADES if len(values) > 3 else [SHADES[0], SHADES[2], SHADES[3]]
    all_axes = np.atleast_1d(axes)
    for axis, (title, cosines) in zip(all_axes, sides.items(), strict=True):
        for number, (value, colour) in enumerate(zip(values, colours, strict=False)):
            style = {"color": colour, "edgecolor": colour, "alpha": 0.55, "histtype": "stepfilled", "linewidth": 1.2}
            axis.hist(cosines[nearest == number], bins, label=f"{value:.2g}", **style)
        axis.set(title=title, xlabel="cosine")
    all_axes[0].set_ylabel("dev pairs")
    figure.legend(*all_axes[0].get_legend_handles_labels(), title="label", frameon=False, loc="outside right center")
    figure.savefig(file)


def human(before: Mapping[str, float], after: Mapping[str, float], file: Path) -> None:
    """Spearman on human-scored sets, before training and after."""
    names = list(after)
    figure, axes = _figure(height=1.2 + 0.45 * len(names))
    places = np.arange(len(names))[::-1]
    for shift, values, colour, label in ((0.2, before, BEFORE, "before"), (-0.2, after, AFTER, "after")):
        bars = axes.barh(places + shift, [values.get(name, np.nan) for name in names], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(places, names)
    axes.grid(axis="x", color="#e5e8eb", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    highest = max([*before.values(), *after.values(), 1])
    axes.set(xlabel="Spearman x 100, human scores", xlim=(min([0, *before.values(), *after.values()]), highest * 1.25))
    axes.legend(frameon=False, loc="center right")
    figure.savefig(file)


def confusion(labels: Sequence[str], counts: npt.NDArray[np.int64], file: Path) -> None:
    """How many pairs of each label look like each label: counts [label, predicted label]."""
    size = len(labels)
    figure, axes = _figure(height=1.4 + 0.55 * size)
    axes.grid(visible=False)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "#1b1f23"
        axes.text(column, row, f"{count}", ha="center", va="center", color=colour)
    axes.set_xticks(range(size), labels)
    axes.set_yticks(range(size), labels)
    axes.set(xlabel="label that the similarity looks like", ylabel="generated label")
    axes.spines[:].set_visible(False)
    figure.savefig(file)
