"""Where a job's passages come from: its own inputs, or those of the dataset, which the trainer reads out over HTTP."""

import heapq
import json
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import httpx

from services.generation.pairs.corpus import Corpus
from services.generation.pairs.plan import MAX_INPUTS, InvalidPlan, ResolvedPlan
from services.generation.pairs.seeds import sample_seed
from shared.documents import passage_content
from shared.errors import first_line

MAX_PASSAGES = MAX_INPUTS
"""Of a larger corpus, so many are drawn: the index is held in memory."""
PAGE = 5000
TIMEOUT_S = 60.0


class NoCorpus(Exception):
    """The trainer does not read out its passages. The message says what to do."""


class CorpusSource:
    """Builds the corpora of jobs. Its methods block; jobs on the same passages share one index."""

    def __init__(self, trainer_url: str, keys: tuple[str, ...] = ()) -> None:
        headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        self._url = trainer_url.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S)
        self._of_the_dataset: WeakValueDictionary[int, Corpus] = WeakValueDictionary()
        self._lock = threading.Lock()

    def pin(self, plan: ResolvedPlan) -> ResolvedPlan:
        """The plan with the dataset's last passage of now in it, if it draws from those.

        Raises `NoCorpus`, and `InvalidPlan` where there is no passage.
        """
        if plan.queries is None:
            return plan
        answer = self._get("/documents")
        try:
            last = int(answer.json()["last_passage"])
        except (ValueError, KeyError, TypeError):
            raise NoCorpus(f"{self._url} (PAIRWRIGHT_TRAINER_URL) is no trainer of this version") from None
        if last == 0:
            raise InvalidPlan("queries", "the dataset has no passages; add documents first")
        return plan.model_copy(update={"last_passage": last})

    def corpus(self, plan: ResolvedPlan) -> Corpus | None:
        """All passages that a job knows; None for a plan that writes no queries. Raises `NoCorpus`,
        and `InvalidPlan` where all passages are gone."""
        if not plan.task.writes_queries:
            return None
        if plan.queries is None:
            return Corpus(plan.inputs or ())
        with self._lock:
            if (corpus := self._of_the_dataset.get(plan.last_passage)) is None:
                passages = self._passages(plan.last_passage)
                # By a hash of their ids, so that the others stay when one is deleted.
                drawn = heapq.nsmallest(MAX_PASSAGES, passages, key=lambda row: (sample_seed(row["id"]), row["id"]))
                if not drawn:
                    raise InvalidPlan("queries", "the dataset's passages have been deleted since")
                ordered = sorted(drawn, key=lambda row: int(row["id"]))
                texts = [passage_content(row["title"], row["text"]) for row in ordered]
                corpus = self._of_the_dataset[plan.last_passage] = Corpus(texts)
        return corpus

    def _passages(self, last: int) -> Iterator[dict[str, Any]]:
        after = 0
        while page := self._get("/passages", after=after, limit=PAGE).text.split("\n")[:-1]:
            for row in map(json.loads, page):
                if row["id"] > last:
                    return
                yield row
            after = json.loads(page[-1])["id"]

    def _get(self, path: str, **parameters: int) -> httpx.Response:
        try:
            response = self._client.get(self._url + path, params=parameters)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise NoCorpus(f"{self._url} (PAIRWRIGHT_TRAINER_URL): {first_line(error)}") from None
        return response
