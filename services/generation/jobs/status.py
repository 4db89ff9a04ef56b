"""A job as everybody sees it: its state and counts, as Redis keeps them and as the API shows them."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.generation.jobs.progress import JobProgress

State = Literal["queued", "running", "complete", "exhausted", "failed", "cancelled"]
FINISHED: frozenset[str] = frozenset({"complete", "exhausted", "failed", "cancelled"})
OLD_FIELDS = {"units": "work_items", "fault": "error"}  # retired: remove in 0.3


@dataclass
class Status:
    """One job's."""

    id: str
    state: State = "queued"
    task: str = ""
    preset: str = "default"
    dry_run: bool = False
    """Its pairs are shown and go nowhere."""
    requested: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    """Pairs in the stream, by label; of a dry run, those that are shown."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Samples thrown away, by reason."""
    samples: int = 0
    work_items: int = 0
    """First sentences to write for, so far."""
    recorded: int = 0
    """First sentences that are done."""
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    pairs_per_second: float | None = None
    """Of late, while it runs; over all of the job, once it has ended."""
    waiting_for: str | None = None
    """Why a running job makes no progress just now."""
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    """What may spoil its pairs, known before it began."""
    request_id: str | None = None
    """Of the request that made it."""
    traceparent: str | None = None
    """The span of that request, while traces are on."""

    @property
    def done(self) -> bool:
        """Nothing more will be written."""
        return self.state in FINISHED

    def update(self, progress: JobProgress) -> None:
        """Take over the counts."""
        self.accepted, self.rejected, self.samples = progress.accepted, progress.rejected, progress.samples
        self.work_items, self.recorded = progress.total, progress.recorded

    def to_json(self) -> dict[str, Any]:
        """The job resource of the API."""
        accepted, rate = self.accepted.total(), self.pairs_per_second
        return {
            **{name: getattr(self, name) for name in ("id", "state", "task", "preset", "dry_run", "requested")},
            "accepted": accepted,
            "accepted_by_label": dict(sorted(self.accepted.items())),
            "rejected": self.rejected.total(),
            "rejected_by_reason": dict(sorted(self.rejected.items())),
            "samples": self.samples,
            "work_items": self.work_items,
            "work_items_done": self.recorded,
            "units": self.work_items,  # retired: remove in 0.3
            "units_done": self.recorded,  # retired: remove in 0.3
            **{name: getattr(self, name) for name in ("created", "started", "finished")},
            "seconds": round((self.finished or time.time()) - self.started, 3) if self.started else 0.0,
            "pairs_per_second": rate,
            "eta_seconds": round((self.requested - accepted) / rate, 1) if rate and self.state == "running" else None,
            "waiting_for": self.waiting_for,
            "error": self.error,
            "warnings": self.warnings,
            "fault": self.error,  # retired: remove in 0.3
        }

    def fields(self) -> list[str]:
        """Names and values in turn, as a Redis hash keeps them."""
        return [text for name, value in vars(self).items() if name != "id" for text in (name, json.dumps(value))]

    @classmethod
    def from_fields(cls, id_: str, fields: Mapping[str, str]) -> "Status":
        """The status in a Redis hash. Raises ValueError, KeyError or TypeError for what another version wrote."""
        old = {new: fields[name] for name, new in OLD_FIELDS.items() if name in fields}  # retired: remove in 0.3
        names = cls.__dataclass_fields__.keys() - {"id"}
        status = cls(id_, **{name: json.loads(text) for name, text in {**old, **fields}.items() if name in names})
        status.accepted, status.rejected = Counter(status.accepted), Counter(status.rejected)
        return status
