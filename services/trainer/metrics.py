"""What the trainer counts, for Prometheus."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.trainer.progress import Progress

ROUND_SECONDS = (3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


OUTCOMES = ("published", "rejected", "failed", "postponed")


def outcome_of(last: Progress) -> str:
    """How a try at a round ended, by its last word; `postponed` is the machine's fault, not the round's."""
    if last.fault is not None or last.version is None:
        return "postponed" if last.passing else "failed"
    return "published" if last.rejection is None else "rejected"


class Metrics:
    """The trainer's metrics. They belong to the event loop; the endpoint's threads only read them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.leads = Gauge(
            "pairwright_trainer_lease_held", "1 while this trainer works on the dataset, 0 while it waits.",
            registry=registry,
        )  # fmt: skip
        self.collecting = Gauge(
            "pairwright_trainer_collecting", "1 while pairs can be taken from the stream and kept.", registry=registry
        )
        self.collected = Counter(
            "pairwright_trainer_pairs_collected", "Entries taken from the stream, known pairs among them.",
            registry=registry,
        )  # fmt: skip
        self.pairs = Gauge("pairwright_trainer_dataset_pairs", "Pairs in the dataset.", registry=registry)
        self.new_pairs = Gauge(
            "pairwright_trainer_new_pairs", "Pairs that came since the last round was planned.", registry=registry
        )
        self.dead_letters = Gauge(
            "pairwright_trainer_dead_letters", "Entries that could not be kept and were put aside.", registry=registry
        )
        self.rounds = Counter(
            "pairwright_trainer_rounds", "Tries at a round: published, rejected, failed, or put off by the machine.",
            ("outcome",), registry=registry,
        )  # fmt: skip
        for outcome in OUTCOMES:  # an alert on a rise needs the zero before it
            self.rounds.labels(outcome)
        self.round_seconds = Histogram(
            "pairwright_trainer_round_seconds", "Time of a try at a round.", buckets=ROUND_SECONDS, registry=registry
        )
        self.running = Gauge("pairwright_trainer_round_running", "1 while a round runs.", registry=registry)
        self.step = Gauge("pairwright_trainer_round_step", "Steps of the round that runs.", registry=registry)
        self.steps = Gauge("pairwright_trainer_round_steps", "Steps that the round will have.", registry=registry)
        self.loss = Gauge("pairwright_trainer_round_loss", "Mean loss of the latest steps.", registry=registry)
        self.dev = Gauge(
            "pairwright_trainer_dev_score", "Spearman x 100 on generated dev pairs, of the newest version published.",
            registry=registry,
        )  # fmt: skip
        self.published = Gauge(
            "pairwright_trainer_last_published_timestamp_seconds",
            "When the newest version was published, in Unix time.",
            registry=registry,
        )
        for unknown in (self.dev, self.published):  # until a version is known
            unknown.set(float("nan"))
        self.faulty = Gauge(
            "pairwright_trainer_faulty", "1 while the last try at collecting or at a round has failed.",
            registry=registry,
        )  # fmt: skip
        self.states: dict[str, str] = {}
        """What `/readyz` says: each thing the trainer needs, and "ok" or what is wrong."""
        self.holds_lease(False)

    def goes_on(self, progress: Progress) -> None:
        """A round has told how far it is."""
        self.step.set(progress.step)
        self.steps.set(progress.steps)
        if progress.loss is not None:
            self.loss.set(progress.loss)

    def tried(self, last: Progress, seconds: float) -> None:
        """A try at a round has ended."""
        self.rounds.labels(outcome_of(last)).inc()
        self.round_seconds.observe(seconds)
        if outcome_of(last) == "published":
            self.has_published(time.time(), last.scores)

    def has_published(self, when: float, scores: Mapping[str, float]) -> None:
        """The newest version, by its Unix time."""
        self.published.set(when)
        if "dev_after" in scores:
            self.dev.set(scores["dev_after"])

    def holds_lease(self, holds: bool) -> None:
        """Whether this trainer works on the dataset."""
        self.leads.set(holds)
        self.collecting.set(holds)
        waits = "ok; another trainer works on the dataset, this one waits"
        self.states = {"lease": "ok", "collecting": "ok", "rounds": "ok"} if holds else {"lease": waits}

    def stands(self, outage: str | None, fault: str | None) -> None:
        """How collecting and rounds do: None, or what is wrong."""
        self.collecting.set(outage is None)
        self.faulty.set(outage is not None or fault is not None)
        # A round that fails is tried again or given up; pairs are collected all the same.
        self.states = {"lease": "ok", "collecting": outage or "ok", "rounds": f"ok; {fault}" if fault else "ok"}
