"""`python -m scripts.metrics_page` writes docs/metrics.md from what the services declare. A stale page fails a test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from services.embedding.metrics import Metrics as EmbeddingMetrics
from services.generation.metrics import Metrics as GenerationMetrics
from services.trainer.metrics import Metrics as TrainerMetrics
from shared.http.middleware import HttpMetrics

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"

SECTIONS: dict[str, Callable[[CollectorRegistry], Any]] = {
    "Every service: the HTTP edge": HttpMetrics,
    "Generation": GenerationMetrics,
    "Trainer": TrainerMetrics,
    "Embedding": EmbeddingMetrics,
    "Every process": lambda registry: ProcessCollector(registry=registry),
}

HEAD = """\
# Metrics

Written by `python -m scripts.metrics_page` from the code; a test fails when it is stale. Don't edit it by hand.

Each service answers `GET /metrics` in Prometheus' text format: generation on port 8001, embedding on 8002, the trainer
on 8003 (`PAIRWRIGHT_TRAINER_PORT`). A name says who counts: `pairwright_SERVICE_...`, or `pairwright_http_...` for the
HTTP edge of each; `te_...` are text-embeddings-inference's names. Times are in seconds. A `_created` series stands
beside each counter and histogram. `process_...` is what Prometheus' own client tells of any process.
"""


def page() -> str:
    """The whole page: for each part, name of the samples, kind, labels and meaning of the metrics that it declares."""
    return "\n".join([HEAD, *(line for title, declare in SECTIONS.items() for line in _section(title, declare))])


def _section(title: str, declare: Callable[[CollectorRegistry], Any]) -> Iterator[str]:
    yield from (f"## {title}", "", "| metric | kind | labels | |", "| --- | --- | --- | --- |")
    registry = CollectorRegistry()
    declare(registry)
    # The client keeps the label names of metrics without samples to itself.
    for collector in registry._collector_to_names:
        families: Any = collector.describe() if hasattr(collector, "describe") else collector.collect()
        labels = ", ".join(f"`{name}`" for name in getattr(collector, "_labelnames", ()))
        for family in families:
            suffix = "_total" if family.type == "counter" else ""
            yield f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
