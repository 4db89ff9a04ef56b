"""Rounds over HTTP: what became of each, how far the one is that runs, and starting one."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel
from redis.exceptions import RedisError

from services.trainer.dataset.store import Round, State
from services.trainer.worker.dataset_api import DatasetApi, problem_errors
from services.trainer.worker.parts import Parts
from shared.errors import Fatal, first_line
from shared.http.problems import Problem
from shared.manifest import Estimate, Manifest
from shared.model_store import BrokenVersion, NoVersion

ANSWER_WITHIN_S = 30.0
HELD = "held: "
"""Begins the reason of a round whose version waits for a person."""
Point = tuple[int, float]


class RoundInfo(BaseModel, use_attribute_docstrings=True):
    """A round, and what became of it."""

    id: int
    """0 publishes the untrained base."""
    state: Literal["planned", "training", "published", "rejected", "held", "failed"]
    """`held`: the gate had no evidence, and a person decides."""
    pairs: int
    version: str | None
    reason: str | None
    """Why it failed, failed last, was rejected or is held."""
    started: datetime | None
    finished: datetime | None


class RoundProgress(BaseModel, use_attribute_docstrings=True):
    """How far the round is that runs."""

    state: str
    """What it does now, as in `training`, `measuring` or `publishing`."""
    step: int
    steps: int
    loss: float | None
    dev: float | None
    eta_s: float | None
    """Seconds until its last step."""


class RoundCurves(BaseModel, use_attribute_docstrings=True):
    """Points of step and value."""

    loss: list[Point] = []
    """The mean of the steps between two points."""
    dev: list[Point] = []
    """Spearman x 100 on the pairs that choose the checkpoint."""


class RoundDetails(RoundInfo):
    """A round with its curves, and what the gate said."""

    progress: RoundProgress | None
    curves: RoundCurves
    gate: str | None
    """Why its version was published, or was not, in a sentence."""
    estimates: dict[str, dict[str, Estimate]]
    """Label-free, by student (`candidate`: the round's version) and kind of task; {} once the version is deleted."""


class StartedRound(BaseModel, use_attribute_docstrings=True):
    """The round that was started, or runs already."""

    round: int


def rounds_router(api: DatasetApi) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["rounds"])

    @router.get("/rounds", summary="The rounds, the newest first", responses=problem_errors(401, 403, 422, 503))
    async def newest(limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> list[RoundInfo]:
        with api.parts() as parts:
            rounds = await parts.dataset.run_beside(lambda dataset: dataset.newest_rounds(limit))
            return [RoundInfo(**_facts(round_)) for round_ in rounds]

    errors = problem_errors(401, 403, 404, 422, 503)

    @router.get("/rounds/{id}", summary="One round: progress, curves, the gate's reason, estimates", responses=errors)
    async def one(id: Annotated[int, Path(ge=0, le=2**63 - 1)]) -> RoundDetails:
        with api.parts() as parts:
            try:
                round_, curves = await parts.dataset.run_beside(lambda dataset: (dataset.round(id), dataset.curves(id)))
            except Fatal:
                raise Problem(404, "No such round", f"There is no round {id}: GET /rounds lists them.") from None
            manifest = await asyncio.to_thread(_manifest, parts, round_)
            live = parts.live if parts.live.id == id else None
            return RoundDetails(
                **_facts(round_),
                progress=_progress(parts) if live else None,
                curves=RoundCurves.model_validate(live.curves if live else curves),
                gate=_reason_of_gate(round_, manifest),
                estimates=manifest.estimates if manifest else {},
            )

    @router.post(
        "/rounds",
        status_code=202,
        summary="Run a round now, on all that the dataset holds",
        responses=problem_errors(401, 403, 409, 503),
    )
    async def start(request: Request, response: Response) -> StartedRound:
        with api.parts() as parts:
            api.check_no_web_page(request)
            id_ = await _start(parts)
            response.headers["Location"] = f"/rounds/{id_}"
            return StartedRound(round=id_)

    return router


async def _start(parts: Parts) -> int:
    """Ask for a round, as `train --once` does; its number. Raises `Problem`."""
    try:
        answer = await parts.requests.ask(asyncio.Event(), ANSWER_WITHIN_S)
    except RedisError as away:
        detail = f"Redis doesn't answer, and a round needs what waits there: {first_line(away)}"
        raise Problem(503, "No round was started", detail, {"Retry-After": "5"}) from None
    if answer is None:
        state = parts.metrics.states.get("rounds", "this trainer waits for the lease")
        detail = f"The trainer didn't answer within {ANSWER_WITHIN_S:g} s. Its rounds: {state}. Its log says more."
        raise Problem(503, "No round was started", detail, {"Retry-After": "30"})
    if not answer.isdecimal():
        detail = f"{answer}: generate or import pairs, or add documents."
        raise Problem(409, "No round was started", detail)
    return int(answer)


def _facts(round_: Round) -> dict[str, Any]:
    held = round_.state == State.REJECTED and (round_.reason or "").startswith(HELD)
    return {
        "id": round_.id,
        "state": "held" if held else round_.state.value,
        "pairs": round_.pairs,
        "version": round_.version,
        "reason": round_.reason.removeprefix(HELD) if round_.reason else None,
        "started": _time(round_.started),
        "finished": _time(round_.finished),
    }


def _time(unix_s: float | None) -> datetime | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC)


def _progress(parts: Parts) -> RoundProgress:
    progress = parts.live.progress
    names = ("state", "step", "steps", "loss", "dev")
    return RoundProgress(**{name: getattr(progress, name) for name in names}, eta_s=progress.seconds_left)


def _manifest(parts: Parts, round_: Round) -> Manifest | None:
    """That of the round's version, while it is kept."""
    try:
        return parts.store.any_manifest(round_.version) if round_.version else None
    except (NoVersion, BrokenVersion):
        return None


def _reason_of_gate(round_: Round, manifest: Manifest | None) -> str | None:
    if manifest is not None and manifest.gate:
        return str(manifest.gate.get("reason"))
    return _facts(round_)["reason"] if round_.state == State.REJECTED else None
