"""The load generator, a process of its own: so many connections, each with one request in flight, for so many seconds.

`python -m scripts.embedding_bench.load < plan.json` prints one JSON object. Bodies are made before the clock starts.
"""

import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from typing import Any, Literal

import aiohttp
import uvloop

from scripts.stack import sentences

Lengths = Literal["short", "mixed"]

_seeds = itertools.count(1)


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


async def measure(
    url: str, field: str, extra: dict[str, Any], inputs: int, connections: int, lengths: Lengths, seconds: float
) -> dict[str, float]:
    """Ask until the time is up; requests that are in flight then are waited for and counted with their time.

    `field` is what the server calls its inputs, `extra` the other fields of the body.
    """
    number = min(4000, max(connections * 2, 60_000 // inputs))
    pool = texts(lengths, number * inputs)
    batches = [pool[start : start + inputs] for start in range(0, len(pool), inputs)]
    prepared = itertools.cycle([json.dumps({field: batch, **extra}).encode() for batch in batches])
    latencies: list[float] = []
    failed = 0
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:

        async def connection(end: float) -> None:
            nonlocal failed
            while time.perf_counter() < end:
                began = time.perf_counter()
                async with session.post(url, data=next(prepared)) as answer:
                    content = await answer.read()
                failed += answer.status != 200 or len(content) < 100
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(connection(began + seconds) for _ in range(connections)))
        took = time.perf_counter() - began
    ordered = sorted(latencies)
    return {
        "requests": len(ordered),
        "requests_s": len(ordered) / took,
        "sentences_s": len(ordered) * inputs / took,
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "failed": failed,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(**json.load(sys.stdin)))))
