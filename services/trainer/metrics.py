"""What the trainer counts, for Prometheus."""

import time
from collections.abc import Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.trainer.progress import Progress

ROUND_SECONDS = (3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


class Metrics:
    """The trainer's metrics and its readiness."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        counter = partial(Counter, namespace="pairwright", subsystem="trainer", registry=registry)
        gauge = partial(Gauge, namespace="pairwright", subsystem="trainer", registry=registry)
        self._lease_held = gauge("lease_held", "1 while this trainer works on the dataset, 0 while it waits.")
        self._collecting = gauge("collecting", "1 while pairs can be taken from the stream and kept.")
        self.collected = counter("pairs_collected", "Entries taken from the stream, known pairs among them.")
        self.pairs = gauge("dataset_pairs", "Pairs in the dataset.")
        self.new_pairs = gauge("new_pairs", "Pairs that came since the last round was planned.")
        self.dead_letters = gauge("dead_letters", "Entries that could not be kept and were put aside.")
        outcomes = (
            "Tries at a round: published, rejected, held for want of evidence, failed, or put off by the machine."
        )
        self._rounds = counter("rounds", outcomes, ("outcome",))
        # An alert on a rise needs the zero before it.
        for outcome in ("published", "rejected", "held", "failed", "postponed"):
            self._rounds.labels(outcome)
        self._round_seconds = Histogram(
            "pairwright_trainer_round_seconds", "Time of a try at a round.", buckets=ROUND_SECONDS, registry=registry
        )
        self.running = gauge("round_running", "1 while a round runs.")
        self._step = gauge("round_step", "Steps of the round that runs.")
        self._steps = gauge("round_steps", "Steps that the round will have.")
        self._loss = gauge("round_loss", "Mean loss of the latest steps.")
        self._dev = gauge("dev_score", "Spearman x 100 on generated dev pairs, of the newest version published.")
        estimate = "Label-free estimate of the newest round's candidate, its base and the version that was current."
        self._estimate = gauge("estimate", estimate, ("student", "kind"))
        published = "When the newest version was published, in Unix time."
        self._published = gauge("last_published_timestamp_seconds", published)
        for unknown in (self._dev, self._published):  # until a version is known
            unknown.set(float("nan"))
        self._error = gauge("error", "1 while the last try at collecting or at a round has failed.")
        self._faulty = gauge("faulty", "Deprecated: pairwright_trainer_error's old name.")  # retired: remove in 0.3
        self.states: dict[str, str] = {}
        """What `/readyz` answers: each thing the trainer needs, and "ok" or what is wrong."""
        self.set_lease_held(False)

    def set_progress(self, progress: Progress) -> None:
        """How far the round is that runs."""
        self._step.set(progress.step)
        self._steps.set(progress.steps)
        if progress.loss is not None:
            self._loss.set(progress.loss)

    def observe_round(self, last: Progress, seconds: float) -> None:
        """A try at a round has ended."""
        self._rounds.labels(last.outcome).inc()
        self._round_seconds.observe(seconds)
        for student, kinds in last.estimates.items():
            for kind, value in kinds.items():
                self._estimate.labels(student, kind).set(value)
        if last.outcome == "published":
            self.set_published(time.time(), last.scores)

    def set_published(self, unix_time: float, scores: Mapping[str, float]) -> None:
        """The newest version."""
        self._published.set(unix_time)
        if "dev_after" in scores:
            self._dev.set(scores["dev_after"])

    def set_lease_held(self, held: bool) -> None:
        """Whether this trainer works on the dataset."""
        self._lease_held.set(held)
        self._collecting.set(held)
        waits = "ok; another trainer works on the dataset, this one waits"
        self.states = {"lease": "ok", "collecting": "ok", "rounds": "ok"} if held else {"lease": waits}

    def set_health(self, outage: str | None, error: str | None) -> None:
        """How collecting and rounds do: None, or what is wrong."""
        self._collecting.set(outage is None)
        for gauge in (self._error, self._faulty):
            gauge.set(outage is not None or error is not None)
        # A round that fails is tried again or given up; pairs are collected all the same.
        self.states = {"lease": "ok", "collecting": outage or "ok", "rounds": f"ok; {error}" if error else "ok"}
