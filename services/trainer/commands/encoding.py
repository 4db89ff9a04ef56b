"""Encode many texts where a person waits: each once, a bar with the time that is left, or a line now and then."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.trainer.models import encoder
from services.trainer.models.static import Embeddings

log = logging.getLogger(__name__)

PORTION = 1024  # texts between two steps of the bar
SILENCE = 30.0  # seconds without a line where there is no terminal
EncodeMethod = Callable[..., Any]


class ObservedEncoder:
    """A student that shows how far it is. It keeps the vectors of the set that it is asked about."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = ""
        self._kept: dict[str, Embeddings] = {}
        self._console = Console(stderr=True)

    def begin(self, name: str) -> None:
        """The set that the next texts are of; the vectors of the last one are forgotten."""
        self.name = name
        self._kept.clear()

    def sentences(self, texts: Sequence[str]) -> Embeddings:
        """float32 [len(texts), dimensions], each text encoded once a set."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        self._kept.update(zip(missing, self._encode(self.model.encode, missing), strict=True))
        return np.stack([self._kept[text] for text in texts])

    def queries(self, texts: Sequence[str]) -> Embeddings:
        """The same under the student's prompt for queries, if it has one."""
        return self._encode(self.model.encode_query, texts)

    def documents(self, texts: Sequence[str]) -> Embeddings:
        """The same under the student's prompt for documents, if it has one."""
        return self._encode(self.model.encode_document, texts)

    def _encode(self, method: EncodeMethod, texts: Sequence[str]) -> Embeddings:
        """Longest first: batches pad little, and the time that is left is never more than it seems."""
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        vectors = np.zeros((len(texts), encoder.dimensions(self.model)), np.float32)
        bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = self._console.is_terminal
        with Progress(*bar, console=self._console, transient=True, disable=not shown) as display:
            task = display.add_task(f"{self.name}: encoding", total=len(texts))
            began = told = time.monotonic()
            for first in range(0, len(order), PORTION):
                places = order[first : first + PORTION]
                portion = [texts[place] for place in places]
                vectors[places] = method(portion, batch_size=encoder.ENCODE_BATCH, show_progress_bar=False)
                done, now = first + len(places), time.monotonic()
                display.update(task, completed=done)
                if not shown and now - told > SILENCE:
                    told, left = now, (now - began) * (len(texts) - done) / done
                    log.info("%s: %d of %d texts, about %d s left", self.name, done, len(texts), round(left))
        return vectors
