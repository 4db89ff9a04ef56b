"""The picture of a bench: `python -m scripts.embedding_bench.picture ROWS.json PICTURE.png`."""

import json
import sys
from pathlib import Path
from typing import Any

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


def draw(rows: list[dict[str, Any]], load: float, picture: Path) -> None:
    """Sentences a second at 32 inputs a request and 16 connections, the best turn of each server."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axis, (lengths, title) in zip(axes, PANELS, strict=True):
        found = {name: _best(rows, name, lengths) for name in NAMES}
        shown = [(name, best) for name, best in found.items() if best]
        shown.reverse()
        bars = axis.barh(
            [NAMES[name] for name, _ in shown],
            [best for _, best in shown],
            color=[COLOURS.get(name, "#adb5bd") for name, _ in shown],
        )
        axis.bar_label(bars, fmt="{:,.0f}", padding=3)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("sentences/s")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"MiniLM, 2 cores, 32 inputs a request, 16 connections; float32 unless said (load {load})", fontsize=10
    )
    figure.savefig(picture, dpi=110)


def _best(rows: list[dict[str, Any]], server: str, lengths: str) -> float:
    of_server = [row for row in rows if row["server"] == server and row.get("lengths") == lengths]
    return max(
        (
            row["sentences_s"]
            for row in of_server
            if server == "bulk" or (row["inputs"], row["connections"]) == (32, 16)
        ),
        default=0.0,
    )


if __name__ == "__main__":
    kept = json.loads(Path(sys.argv[1]).read_text())
    draw(kept["rows"], kept["summary"]["load"], Path(sys.argv[2]))
