"""The picture of a bench: `python -m scripts.embedding_bench.picture ROWS.json PICTURE.png`."""

import json
import sys
from pathlib import Path

from scripts.embedding_bench.rows import Row, best_of_32

NAMES = {
    "ours": "Pairwright",
    "naive": "FastAPI + encode",
    "infinity": "infinity",
    "vllm": "vLLM pooling",
    "bulk": "encode, in process",
    "ours-bfloat16": "Pairwright, bfloat16",
    "ours-int8": "Pairwright, int8",
}
COLOURS = {"ours": "#2a6f97", "ours-bfloat16": "#61a5c2", "ours-int8": "#89c2d9"}
PANELS = (("short", "short texts (13 tokens)"), ("mixed", "mixed lengths (3 to 160 words)"))


def draw(rows: list[Row], load: float, picture: Path) -> None:
    """Sentences a second at 32 inputs a request and 16 connections, the best turn of each server."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axis, (lengths, title) in zip(axes, PANELS, strict=True):
        rates = {name: rate for name in reversed(NAMES) if (rate := best_of_32(rows, name, lengths))}
        colours = [COLOURS.get(name, "#adb5bd") for name in rates]
        bars = axis.barh([NAMES[name] for name in rates], list(rates.values()), color=colours)
        axis.bar_label(bars, fmt="{:,.0f}", padding=3)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("sentences/s")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"MiniLM, 2 cores, 32 inputs a request, 16 connections; float32 unless said (load {load})", fontsize=10
    )
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    draw(results["rows"], results["summary"]["load"], Path(sys.argv[2]))
