"""Scores texts for a query by how much likelier the teacher finds the query after each of them.

It is the pointwise mutual information a token, log p(query | text) - log p(query | neutral text): the order is that of
Sachan et al.'s query likelihood, and what every text would give the query is taken off, so that 0 means "nothing of the
query is in this text". It may be mixed with the cosines of the student that the embedding service serves.
"""

import asyncio
import math
import ssl
import time
from collections.abc import Sequence
from typing import Any

import httpx

from services.generation.decoding.base import Continuation, Engine, PromptTooLong, TextTooLong
from services.generation.metrics import Metrics
from shared import query_prompt

SETTING = "PAIRWRIGHT_GENERATION_EMBEDDING_URL"
CLIENT = "rerank"
"""All texts together take turns with each job: neither waits for the other."""


class InvalidText(Exception):
    """A text can't be read as it is. The message says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message


class TooManyTexts(Exception):
    """So many texts wait that no more can be taken now."""


class StudentUnavailable(Exception):
    """The embedding service gives no cosines now. The message says why."""


class StudentCosines:
    """Asks the embedding service for cosines."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        self._tls = ssl.create_default_context()  # once: it takes longer than a call

    async def of(self, query: str, texts: Sequence[str], truncate: bool) -> list[float]:
        """The cosine of the query with each text; 0 for blank ones. Raises `StudentUnavailable`."""
        asked = [text for text in dict.fromkeys(texts) if text.strip()]
        if not asked:
            return [0.0] * len(texts)
        body = {"query": query, "texts": asked, "raw_scores": True, "truncate": truncate}
        try:
            async with httpx.AsyncClient(headers=self._headers, verify=self._tls, timeout=60.0) as client:
                answer = await client.post(f"{self._url}/rerank", json=body)
            answer.raise_for_status()
            ranks: list[dict[str, Any]] = answer.json()
            cosines = {asked[rank["index"]]: float(rank["score"]) for rank in ranks}
            return [cosines[text] if text.strip() else 0.0 for text in texts]
        except httpx.HTTPStatusError as error:
            reason = f"it answered {error.response.status_code}: {error.response.text[:200]}"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, LookupError) as error:
            reason = str(error) or type(error).__name__
        raise StudentUnavailable(f"the embedding service at {self._url} gives no cosines: {reason}")


class Reranker:
    """Scores of texts. Texts of all requests enter the engine in turns, so that a long request delays no short one."""

    def __init__(self, engine: Engine, metrics: Metrics, max_texts: int, student: StudentCosines | None) -> None:
        """`max_texts`: of all requests that are not answered yet. Without `student` there are no cosines."""
        self.engine, self.student = engine, student
        self._metrics, self._max_texts = metrics, max_texts
        # Waiters are served in order, and each request has one: requests take turns.
        self._room = asyncio.Semaphore(max(1, engine.capacity))
        self._open = 0

    async def scores(self, query: str, texts: Sequence[str], weight: float = 1.0, truncate: bool = True) -> list[float]:
        """A number for each text, the larger the likelier it has what was searched for.

        weight * mutual information in nats a token + (1 - weight) * cosine. Raises `InvalidText`, `TooManyTexts`,
        `StudentUnavailable` or `EngineDead`.
        """
        if self._open and self._open + len(texts) > self._max_texts:
            raise TooManyTexts(f"{self._open} texts are being scored; {self._max_texts} may be at one time")
        self._open += len(texts)
        began = time.monotonic()
        try:
            return await self._mixed(query, texts, weight, truncate)
        finally:
            self._open -= len(texts)
            self._metrics.rerank_seconds.observe(time.monotonic() - began)

    async def _mixed(self, query: str, texts: Sequence[str], weight: float, truncate: bool) -> list[float]:
        scores = [0.0] * len(texts)
        if weight < 1:
            if self.student is None:
                raise InvalidText("weight", f"below 1 it needs the embedding service: {SETTING} is not set")
            scores = [(1 - weight) * cosine for cosine in await self.student.of(query, texts, truncate)]
        if weight > 0:
            gains = await self._mutual_information(query, texts, truncate)
            scores = [score + weight * gain for score, gain in zip(scores, gains, strict=True)]
        return scores

    async def _mutual_information(self, query: str, texts: Sequence[str], truncate: bool) -> list[float]:
        """Nats a token, of each text."""
        different = {text: place for place, text in reversed(list(enumerate(texts)))}
        calls: dict[str, asyncio.Task[float]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                neutral = group.create_task(self._mean(query, query_prompt.NEUTRAL, None, truncate))
                for text, place in different.items():
                    await self._room.acquire()
                    calls[text] = group.create_task(self._mean(query, text, place, truncate))
                    calls[text].add_done_callback(lambda _: self._room.release())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        self._metrics.reranked_texts.inc(len(texts))
        return [calls[text].result() - neutral.result() for text in texts]

    async def _mean(self, query: str, text: str, place: int | None, truncate: bool) -> float:
        """The mean log-likelihood of a token of the query after a text, each as one line."""
        passage, asked = " ".join(text.split()), " ".join(query.split())
        parts = (query_prompt.OPENING, passage, query_prompt.BETWEEN, asked, query_prompt.CLOSING)
        try:
            values = await self.engine.log_likelihoods(Continuation(*parts, truncate=truncate, client=CLIENT))
        except TextTooLong as error:
            raise InvalidText("query", f"{error}; shorten it or allow `truncate`") from None
        except PromptTooLong as error:
            raise InvalidText(f"texts.{place}", f"{error}; shorten it or allow `truncate`") from None
        return math.fsum(values) / len(values)
