"""The load generator, a process of its own: so many connections, each with one request in flight, for so many seconds.

`python -m scripts.embedding_bench.load < plan.json` prints one JSON object. Bodies are made before the clock starts.
"""

import asyncio
import dataclasses
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Literal

import aiohttp
import uvloop

from scripts.stack import printed_json, sentences

Lengths = Literal["short", "mixed"]

_seeds = count(1)


@dataclass
class Plan:
    """One measurement."""

    url: str
    field: str
    """What the server calls its inputs."""
    inputs: int
    connections: int
    lengths: Lengths
    seconds: float
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Other fields of the body."""


def run(plan: Plan) -> dict[str, float]:
    """Run the plan in a process of its own: requests_s, sentences_s, p50_ms, p99_ms, failed."""
    return printed_json(["-m", "scripts.embedding_bench.load"], input=json.dumps(asdict(plan)))


def texts(lengths: Lengths, number: int) -> list[str]:
    """Texts of random words, never the same twice: no server's cache may help it.

    Short: 6 to 14 words. Mixed: log-normal, 20 on average, 3 to 160.
    """
    words, chance = " ".join(sentences()).split(), random.Random(next(_seeds))
    result = []
    for _ in range(number):
        size = chance.randint(6, 14) if lengths == "short" else round(min(160, max(3, chance.lognormvariate(2.7, 0.8))))
        result.append(" ".join(chance.choices(words, k=size)))
    return result


def bodies(plan: Plan) -> list[bytes]:
    """Requests, of unlike texts."""
    number = min(4000, max(plan.connections * 2, 60_000 // plan.inputs))
    pool = texts(plan.lengths, number * plan.inputs)
    return [
        json.dumps({plan.field: pool[start : start + plan.inputs], **plan.extra}).encode()
        for start in range(0, len(pool), plan.inputs)
    ]


async def measure(plan: Plan) -> dict[str, float]:
    """Ask until the time is up; requests that are in flight then are waited for and counted with their time."""
    prepared = iter(bodies(plan) * 1000)
    latencies: list[float] = []
    failed = 0
    connector = aiohttp.TCPConnector(limit=plan.connections, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:

        async def connection(end: float) -> None:
            nonlocal failed
            while time.perf_counter() < end:
                began = time.perf_counter()
                async with session.post(plan.url, data=next(prepared)) as answer:
                    content = await answer.read()
                failed += answer.status != 200 or len(content) < 100
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(connection(began + plan.seconds) for _ in range(plan.connections)))
        took = time.perf_counter() - began
    ordered = sorted(latencies)
    return {
        "requests": len(ordered),
        "requests_s": len(ordered) / took,
        "sentences_s": len(ordered) * plan.inputs / took,
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "failed": failed,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(Plan(**json.load(sys.stdin))))))
