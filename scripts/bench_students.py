"""`make bench-students`: each student that is made of the teacher, by speed, size and what people judged.

Speed is of the embedding service in float32 on all cores of this machine, which the load generator shares. MiniLM,
which was trained on pairs by people, is measured beside them.
"""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from scripts import benchmark
from scripts.bench_embedding import MINILM, publish
from scripts.embedding_bench import servers
from scripts.stack import prepare_teacher, printed_json
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.settings import MADE_STUDENTS

SUPERVISED = "all-MiniLM-L6-v2"
INT8 = Path("onnx", "model_int8.onnx")
Row = dict[str, Any]


def measure(student: str, home: Path, options: argparse.Namespace) -> Row:
    """Publish a student in `home`, serve it and score it. Raises `Fatal`."""
    publish(home, student)
    store = ModelStore(home / "models" / "default")
    version = store.current()
    assert version is not None, "it was published"
    folder = store.path(version)
    row: Row = {"mb": _megabytes(folder.glob("**/model.safetensors"))}
    row["int8_mb"] = _megabytes([folder / INT8]) if (folder / INT8).is_file() else None
    with contextlib.closing(servers.ours(home, home, precision="float32")) as server:
        row["start_s"] = round(server.start_s, 1)
        for field, inputs, connections in (("sentences_s", 32, 16), ("requests_s", 1, 16)):
            plan = {"inputs": inputs, "connections": connections, "lengths": "short", "seconds": options.seconds}
            row[field] = round(max(server.measure(**plan)["sentences_s"] for _ in range(options.turns)))
    if options.sts is not None:
        arguments = ["-m", "services.trainer", "evaluate", str(folder), "--sts", str(options.sts.resolve()), "--json"]
        row["sts"] = printed_json(arguments)
    return row


def _megabytes(files: Iterable[Path]) -> float:
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


def draw(rows: dict[str, Row], file: Path) -> None:
    """Speed against the mean over the sets; students of the teacher are joined, the supervised one stands apart."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    points = {name: (row["sentences_s"], row["sts"]["average"]) for name, row in rows.items()}
    front = sorted(point for name, point in points.items() if name != SUPERVISED)
    axis.plot(*zip(*front, strict=True), "-o", color="#2a6f97", label="no labels: made of the teacher")
    if SUPERVISED in points:
        axis.plot(*points[SUPERVISED], "s", color="#b23a48", label="supervised: pairs by people")
    for name, point in points.items():
        axis.annotate(name, point, xytext=(6, 6), textcoords="offset points", fontsize=9)
    axis.set_xscale("log")
    axis.margins(x=0.15, y=0.15)
    axis.set_xlabel("short sentences a second, as served")
    axis.set_ylabel("mean Spearman x 100")
    axis.set_title(f"Students by speed and quality ({os.cpu_count()} cores, float32)", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> dict[str, Any]:
    """Measure each student, one at a time. Raises `Fatal`."""
    parser = argparse.ArgumentParser(prog="make bench-students")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--turns", type=int, default=3, help="of each measurement; the best one counts")
    parser.add_argument("--students", nargs="+", default=list(MADE_STUDENTS), help="names, folders or hub ids")
    parser.add_argument("--sts", type=Path, metavar="DIR", help="also score on the *.tsv.gz files of this folder")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw speed against quality; needs --sts")
    options = parser.parse_args()
    if options.picture is not None and options.sts is None:
        raise Fatal("--picture: quality is measured with --sts DIR")
    prepare_teacher()
    students = {name: name for name in options.students}
    students[SUPERVISED] = str(files(MINILM) / "model")
    rows: dict[str, Row] = {}
    for name, student in students.items():
        with tempfile.TemporaryDirectory() as home:
            rows[name] = measure(student, Path(home), options)
        print(name, json.dumps(rows[name]), flush=True)
    if options.picture is not None:
        draw(rows, options.picture)
    return {"students": rows, "dtype": "float32", "cores": os.cpu_count(), "load": benchmark.load_average()}


if __name__ == "__main__":
    benchmark.run(main)
