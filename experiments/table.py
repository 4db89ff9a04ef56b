"""Results as tables: the mean over seeds and its 95 % interval."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import t

from experiments.results import Result

SECTIONS = ("eval_pairs", "agreement", "human")


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean (Student's t); None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def cell(values: Iterable[float | None], digits: int = 2) -> str:
    """A mean with its interval, as in `61.90 ± 0.30`."""
    present = [value for value in values if value is not None]
    if not present:
        return "-"
    half = half_width(present) or 0
    return f"{np.mean(present):,.{digits}f}" + (f" ± {half:.{digits}f}" if half >= 0.5 / 10**digits else "")


def markdown(rows: Mapping[str, Sequence[Result]], human: bool = False, details: bool = False) -> str:
    """One line a row, in their order. `details`: each evaluation set, and the agreement with the teacher.

    Human columns only where asked for: they choose nothing.
    """
    results = [result for several in rows.values() for result in several]
    sections = [section for section in SECTIONS if (human if section == "human" else details)]
    columns = list(dict.fromkeys((section, name) for section in sections for one in results for name in one[section]))
    names = [f"agreement: {name}" if section == "agreement" else name for section, name in columns]
    header = ["row", "seeds", "pairs", "dev", "mean", *names]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for name, several in rows.items():
        cells = [name, str(len(several)), cell((one["pairs"] for one in several), digits=0)]
        cells += [cell(one[column] for one in several) for column in ("dev", "mean")]
        cells += [cell(one[section].get(column) for one in several) for section, column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
