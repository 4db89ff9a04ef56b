"""What the service counts, for Prometheus."""

from collections.abc import Collection, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

JOB_SECONDS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
RERANK_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The generation service's own metrics, beside those of the HTTP edge."""

    def __init__(
        self, registry: CollectorRegistry, labels_of_tasks: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """`labels_of_tasks`: the tasks that this service offers, by name, each with its labels."""
        self._labels_of_tasks = labels_of_tasks or {}
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self.accepted = counter("pairwright_generation_pairs_accepted", "Pairs put into the stream.", ("task", "label"))
        self.rejected = counter("pairwright_generation_samples_rejected", "Samples thrown away.", ("reason",))
        self.finished = counter("pairwright_generation_jobs_finished", "Jobs that ended here, by how.", ("state",))
        words = "Time from a job's start to its end."
        self.job_seconds = Histogram("pairwright_generation_job_seconds", words, buckets=JOB_SECONDS, registry=registry)
        self.reranked_texts = counter("pairwright_generation_texts_reranked", "Texts scored for /rerank.")
        words = "Time from a request of /rerank to its scores."
        self.rerank_seconds = Histogram(
            "pairwright_generation_rerank_seconds", words, buckets=RERANK_SECONDS, registry=registry
        )
        self.open_jobs = gauge("pairwright_generation_open_jobs", "Jobs of the dataset that are queued or run.")
        self.backlog = gauge("pairwright_generation_backlog_pairs", "Pairs in the stream that wait for the trainer.")
        self.backlog_limit = gauge(
            "pairwright_generation_backlog_limit_pairs",
            "Pairs that may wait: new jobs are refused from half of it, running ones pause at it.",
        )
        self.redis_up = gauge("pairwright_generation_redis_up", "1 if Redis answered when last asked.")
        self.engine_ready = gauge("pairwright_generation_engine_ready", "1 while the engine can decode.")
        self.tokens = gauge("pairwright_generation_tokens_drawn", "Tokens of finished sentences since the start.")
        self.lanes = gauge("pairwright_generation_lanes_running", "Prompts that decode now.")
        self.replayed = gauge(
            "pairwright_generation_samples_replayed", "Samples that fell out of lockstep and were made again, so far."
        )

    def count_work_item(self, task: str, accepted: Mapping[str, int], rejected: Mapping[str, int]) -> None:
        """A work item was recorded, with so many pairs by label and so many rejected samples by reason."""
        labels = self._labels_of_tasks.get(task, ())
        for label, pairs in accepted.items():
            # A spec that came with a request has names of its own, as many as callers like.
            names = (task, label) if label in labels else ("inline", "inline")
            self.accepted.labels(*names).inc(pairs)
        for reason, samples in rejected.items():
            self.rejected.labels(reason).inc(samples)

    def count_job_end(self, state: str, seconds: float) -> None:
        """A job ended here."""
        self.finished.labels(state).inc()
        self.job_seconds.observe(seconds)
