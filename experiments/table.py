"""Results as tables: the mean over seeds and its 95 % interval."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean (Student's t); None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def cell(values: Iterable[float | None]) -> str:
    """A mean with its interval, as in `61.9 ± 0.3`."""
    found = [value for value in values if value is not None]
    if not found:
        return "-"
    half = half_width(found)
    return f"{np.mean(found):.2f}" + (f" ± {half:.2f}" if half is not None and half >= 0.005 else "")


def markdown(results: Mapping[str, Sequence[Mapping[str, Any]]], human: bool, details: bool = False) -> str:
    """One line a row of the grid, in its order. Human columns only where asked for: they choose nothing."""
    everything = [one for several in results.values() for one in several]
    names = list(dict.fromkeys(name for one in everything for name in one["judges"])) if details else []
    sets = list(dict.fromkeys(name for one in everything for name in one["human"])) if human else []
    header = ["row", "seeds", "pairs", "dev", "judged", *names, *sets]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for name, several in results.items():
        cells = [name, str(len(several)), f"{np.mean([one['pairs'] for one in several]):,.0f}"]
        cells += [cell(one[column] for one in several) for column in ("dev", "judged")]
        cells += [cell(one["judges"].get(judge) for one in several) for judge in names]
        cells += [cell(one["human"].get(one_set) for one in several) for one_set in sets]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
