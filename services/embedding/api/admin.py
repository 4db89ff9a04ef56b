"""Our own routes: every published version and what became of it, promotion, rollback and reload."""

import asyncio
import ipaddress
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from services.embedding.api.errors import problem_errors
from services.embedding.api.serialization import VERSION_HEADER
from services.embedding.serving.registry import RETRY_AFTER_S, VersionRegistry
from shared.http.middleware import KeySet
from shared.http.problems import Problem
from shared.manifest import Estimate, Int8, Manifest, OnnxExport
from shared.model_store import BrokenVersion, NoVersion

State = Literal["current", "previous", "published", "quarantined"]


class VersionInfo(BaseModel):
    """One published version."""

    id: str
    state: State  # `current` and `previous` are the store's pointers, `quarantined` is what this service refused
    reason: str | None = None  # why it is quarantined
    serving: bool  # it answers requests that name no version
    loaded: bool  # in memory; another one is loaded when it is named in `model`
    backend: str | None  # what computes it, `static`, `torch` or `onnx`; None while it isn't loaded
    precision: str | None
    round: int
    created: datetime
    base: str
    parent: str | None
    pairs: int
    dimensions: int
    matryoshka: list[int]  # what `dimensions` may ask for beside the native size
    scores: dict[str, float]
    estimates: dict[str, dict[str, Estimate]]  # label-free, by student (`candidate`: this version) and kind of task
    gate: str | None  # why the gate published it, or would not have
    onnx: OnnxExport | None  # its exact export for CPUs; None when it has none
    int8: Int8 | None  # how true its int8 export is; None when it has none


class CandidateInfo(BaseModel):
    """A candidate that is not served: the gate rejected it, or holds it for a person to decide."""

    id: str
    state: Literal["rejected", "held"]
    reason: str
    round: int
    created: datetime
    base: str
    pairs: int
    estimates: dict[str, dict[str, Estimate]]


class VersionList(BaseModel):
    """All of them, oldest round first."""

    versions: list[VersionInfo]
    candidates: list[CandidateInfo] = []
    pinned: str | None = None  # stays current whatever is published


class Activation(BaseModel):
    """What serves now, and what served before."""

    version: str
    previous: str | None
    pinned: str | None  # stays current whatever is published


class Unpinned(BaseModel):
    """What serves; from now on, what is published becomes current."""

    version: str | None
    pinned: None = None


def check_may_change(request: Request, keys: KeySet) -> None:
    """Holders of one of `keys` may change what serves; without keys, callers on this machine that aren't web pages.

    Raises `Problem` 403.
    """
    if keys:
        if request.headers.get("authorization", "").partition(" ")[2].strip() not in keys:
            raise Problem(403, "Forbidden", "This key may not activate versions; send an admin key.")
    # A page in a local browser can post to loopback too; it can't leave out its origin.
    elif "origin" in request.headers or not _is_local(request):
        detail = "Without keys, only callers on this machine may do this. Set PAIRWRIGHT_EMBEDDING_ADMIN_KEYS."
        raise Problem(403, "Forbidden", detail)


def _is_local(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def router(versions: VersionRegistry, keys: KeySet) -> APIRouter:
    """The routes. `keys` may change what serves."""
    routes = APIRouter(tags=["versions"])

    # Not async: they read manifests from disk.
    @routes.get("/versions", summary="Every published version, its scores and its state", responses=problem_errors(401))
    def _versions() -> VersionList:
        candidates = [_candidate(manifest) for manifest in versions.store.rejected()]
        published = [_info(versions, manifest) for manifest in versions.store.versions()]
        return VersionList(versions=published, candidates=candidates, pinned=versions.store.pinned())

    @routes.get(
        "/versions/{id}", summary="One version, or `current`, or `previous`", responses=problem_errors(401, 404)
    )
    def _version(id: str) -> VersionInfo:
        try:
            return _info(versions, versions.store.manifest(versions.store.resolve(id)))
        except (NoVersion, BrokenVersion) as error:
            raise Problem(404, "No such version", str(error)) from None

    summary = "Look at the store now; quarantined versions get another chance"

    @routes.post("/versions/reload", summary=summary, responses=problem_errors(401, 403, 503))
    async def _reload(request: Request, response: Response) -> VersionList:
        check_may_change(request, keys)
        await versions.refresh(retry_quarantined=True)
        if versions.serving is None:
            raise Problem(503, "Not ready", versions.state(), {"Retry-After": str(RETRY_AFTER_S)})
        response.headers[VERSION_HEADER] = versions.serving.version
        return await asyncio.to_thread(_versions)

    _add_activation(routes, versions, keys)
    return routes


def _add_activation(routes: APIRouter, versions: VersionRegistry, keys: KeySet) -> None:
    summary = "Serve a version from now on: promotion, or rollback (`previous`); a pin moves along"

    async def activate(id: str, response: Response, pin: bool, rejected: bool = False) -> Activation:
        before = versions.serving.version if versions.serving else None
        try:
            version = await versions.activate(id, pin, rejected)
        except NoVersion as error:
            raise Problem(404, "No such version", str(error)) from None
        except BrokenVersion as error:
            raise Problem(409, "Not activated", f"{error}; {before or 'nothing'} keeps serving") from None
        except OSError as error:
            raise _not_written("Not activated", error, before) from None
        response.headers[VERSION_HEADER] = version
        return Activation(version=version, previous=before, pinned=versions.store.pinned())

    @routes.post("/versions/{id}/activate", summary=summary, responses=problem_errors(401, 403, 404, 409))
    async def _activate(
        id: str,
        request: Request,
        response: Response,
        rejected: Annotated[
            bool, Query(description="Overrule the gate: take a rejected or held candidate too")
        ] = False,
    ) -> Activation:
        check_may_change(request, keys)
        return await activate(id, response, pin=False, rejected=rejected)

    summary = "Serve a version from now on, whatever the trainer publishes"

    @routes.post("/versions/{id}/pin", summary=summary, responses=problem_errors(401, 403, 404, 409))
    async def _pin(id: str, request: Request, response: Response) -> Activation:
        check_may_change(request, keys)
        return await activate(id, response, pin=True)

    summary = "Let the next version that is published become current"

    @routes.delete("/versions/pin", summary=summary, responses=problem_errors(401, 403, 409))
    async def _unpin(request: Request) -> Unpinned:
        check_may_change(request, keys)
        serving = versions.serving.version if versions.serving else None
        try:
            await asyncio.to_thread(versions.store.unpin)
        except OSError as error:
            raise _not_written("Still pinned", error, serving) from None
        return Unpinned(version=serving)


def _not_written(title: str, error: OSError, serving: str | None) -> Problem:
    detail = f"The store of versions can't be written: {error.strerror}; {serving or 'nothing'} keeps serving"
    return Problem(409, title, detail)


def _candidate(manifest: Manifest) -> CandidateInfo:
    names = ("id", "round", "created", "base", "pairs", "estimates")
    state: Literal["rejected", "held"] = "held" if manifest.held else "rejected"
    facts = {name: getattr(manifest, name) for name in names}
    return CandidateInfo(state=state, reason=manifest.rejection or "", **facts)


def _info(versions: VersionRegistry, manifest: Manifest) -> VersionInfo:
    failure, serving = versions.failures.get(manifest.id), versions.serving
    loaded = versions.loaded.get(manifest.id)
    pointers: dict[str | None, State] = {versions.store.previous(): "previous", versions.store.current(): "current"}
    return VersionInfo(
        **manifest.model_dump(include=set(VersionInfo.model_fields) - {"gate"}),
        gate=manifest.gate.get("reason"),
        state="quarantined" if failure else pointers.get(manifest.id, "published"),
        reason=failure.reason if failure else None,
        serving=serving is not None and serving.version == manifest.id,
        loaded=loaded is not None,
        backend=loaded.backend if loaded else None,
        precision=loaded.precision if loaded else None,
    )
