"""`POST /compare`: how two versions rank the same texts for a query, and which texts changed places."""

from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from services.embedding.api.errors import problem_errors
from services.embedding.api.requests import StrictBody, post
from services.embedding.api.serialization import VERSION_HEADER, json_response
from services.embedding.serving.errors import InvalidInput
from services.embedding.serving.service import EmbeddingService, EmbedRequest, WaitForLeaving

MOST_TEXTS, AT_ONCE = 5000, 1024
NO_PIN = "`/compare` takes its two versions from the body: leave the header x-pairwright-version out"


class CompareBody(StrictBody):
    """`POST /compare`. `top_n` is the length of each ranking."""

    EXAMPLE: ClassVar = {
        "query": "Who makes music?",
        "texts": ["It rains.", "A man is playing a guitar."],
        "versions": ["previous", "current"],
    }
    query: Annotated[str, Field(min_length=1)]
    texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_TEXTS)]
    versions: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=2)]
    top_n: Annotated[int, Field(ge=1, le=MOST_TEXTS)] = 10


class Ranked(BaseModel):
    """A text's place in `texts`, its cosine with the query, and its rank from 1."""

    index: int
    score: float
    rank: int


class VersionRanking(BaseModel):
    """A version's nearest texts, the nearest first."""

    version: str
    results: list[Ranked]


class Moved(BaseModel):
    """A text of either ranking whose ranks differ: in the first version's order, and in the second's."""

    index: int
    ranks: list[int]


class Comparison(BaseModel):
    """Both rankings, and what moved, the furthest first."""

    rankings: list[VersionRanking]
    moved: list[Moved]


def router(service: EmbeddingService) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["versions"])
    summary = "Two versions' rankings of the same texts for a query, by cosine, and what moved"
    errors = problem_errors(400, 401, 404, 408, 413, 415, 422, 429, 503, 504)

    @post(routes, ("/compare",), CompareBody, Comparison, errors, summary, names_version=False)
    async def _compare(http: Request, body: CompareBody) -> Response:
        if VERSION_HEADER in http.headers:
            raise InvalidInput(NO_PIN, "versions", "conflicting_versions")
        rankings, ranks, names = [], [], []
        # One version after the other: there may be room in memory for one that doesn't serve.
        async with service.deadline():
            for version in body.versions:
                name, cosines = await _cosines(service, body, version, http.receive)
                order = np.argsort(-cosines, kind="stable")
                place = np.empty(len(order), np.int64)
                place[order] = np.arange(1, len(order) + 1)
                top = order[: body.top_n].tolist()
                results = [{"index": one, "score": float(cosines[one]), "rank": int(place[one])} for one in top]
                rankings.append({"version": name, "results": results})
                ranks.append(place)
                names.append(name)
        answer = orjson.dumps({"rankings": rankings, "moved": _moved(ranks[0], ranks[1], body.top_n)})
        return json_response(answer, {VERSION_HEADER: ", ".join(names)})

    return routes


async def _cosines(
    service: EmbeddingService, body: CompareBody, version: str, wait_for_leaving: WaitForLeaving
) -> tuple[str, npt.NDArray[np.float32]]:
    """The version's id and its cosines, [texts]; each side is read under the version's prompt for it."""
    name = (await service.versions.choose(version)).version
    query = EmbedRequest([body.query], (name,), input_type="query", field="query")
    asked = (await service.embed(query, wait_for_leaving)).vectors[0]
    parts = []
    for start in range(0, len(body.texts), AT_ONCE):  # as one request, it might be more than the queue takes
        texts = EmbedRequest(body.texts[start : start + AT_ONCE], (name,), input_type="document", field="texts")
        parts.append((await service.embed(texts, wait_for_leaving)).vectors @ asked)
    return name, np.concatenate(parts).clip(-1, 1)


def _moved(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], top_n: int) -> list[dict[str, object]]:
    shown = np.flatnonzero((np.minimum(before, after) <= top_n) & (before != after))
    furthest = shown[np.argsort(-np.abs(before - after)[shown], kind="stable")]
    return [{"index": int(one), "ranks": [int(before[one]), int(after[one])]} for one in furthest]
