"""`python -m scripts.bench_browsing`: how long a page of pairs takes, asked of a trainer that runs.

Fill its dataset before, with `dataset import` for example. Each kind of question walks over pages and is timed over
HTTP, from the request to the last byte.
"""

import argparse
import time
from collections.abc import Mapping

import httpx

QUESTIONS: dict[str, Mapping[str, str]] = {
    "newest": {},
    "oldest": {"order": "oldest"},
    "surprise": {"order": "surprise"},
    "score from 0.9": {"min_score": "0.9"},
    "unchecked": {"checked": "false"},
    "checked": {"checked": "true"},
    "no such score": {"score": "0.123"},
    "no such text": {"text": "there is no such text"},
    "no such text, by surprise": {"text": "there is no such text", "order": "surprise"},
}


def measure(client: httpx.Client, query: Mapping[str, str], pages: int) -> tuple[list[float], int]:
    """Milliseconds of each page, and how many pairs they had."""
    times, pairs, cursor = list[float](), 0, dict[str, str]()
    while len(times) < pages:
        began = time.perf_counter()
        page = client.get("/pairs", params={**query, **cursor}).raise_for_status().json()
        times.append(1000 * (time.perf_counter() - began))
        pairs += len(page["pairs"])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    return times, pairs


def main() -> None:
    """Print a row for each kind of question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8003")
    parser.add_argument("--pages", type=int, default=50)
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        summary = client.get("/pairs/summary").raise_for_status().json()
        of_filters = {
            f"one {name}": {name: key}
            for name, keys in (
                ("task", list(summary["tasks"])), ("label", list(summary["labels"])),
                ("job", [one["job"] for one in summary["jobs"]]),
            )
            for key in keys[-1:]
        }  # fmt: skip
        print(
            f"{summary['total']} pairs\n\n"
            "| pages of | pages | pairs | mean, ms | longest, ms |\n| --- | ---: | ---: | ---: | ---: |"
        )
        for name, query in {**QUESTIONS, **of_filters}.items():
            times, pairs = measure(client, query, arguments.pages)
            print(f"| {name} | {len(times)} | {pairs} | {sum(times) / len(times):.1f} | {max(times):.1f} |")


if __name__ == "__main__":
    main()
