"""Our own routes: every published version and what became of it, promotion, rollback and reload."""

import asyncio
import ipaddress
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from services.embedding.api.errors import DESCRIPTIONS, Responses
from services.embedding.api.serialization import VERSION_HEADER
from services.embedding.serving.registry import RETRY_AFTER_S, VersionRegistry
from shared.http.middleware import KeySet
from shared.http.problems import Problem
from shared.manifest import Int8, Manifest
from shared.model_store import BrokenVersion, NoVersion

State = Literal["current", "previous", "published", "quarantined"]


class VersionInfo(BaseModel):
    """One published version."""

    id: str
    state: State
    """`current` and `previous` as the store's pointers say; `quarantined` when this service refused it."""
    reason: str | None = None
    """Why it is quarantined."""
    serving: bool
    """It answers requests that name no version."""
    loaded: bool
    """It is in memory; another one is loaded when it is named in `model`."""
    backend: str | None
    """What computes it, `static`, `torch` or `onnx`; None while it isn't loaded."""
    precision: str | None
    round: int
    created: datetime
    base: str
    parent: str | None
    pairs: int
    dimensions: int
    matryoshka: list[int]
    """What `dimensions` may ask for beside the native size."""
    scores: dict[str, float]
    int8: Int8 | None
    """How true its int8 export is; None when it has none."""


class VersionList(BaseModel):
    """All of them, oldest round first."""

    versions: list[VersionInfo]


class Activation(BaseModel):
    """What serves now, and what served before."""

    version: str
    previous: str | None


def check_may_change(request: Request, keys: KeySet) -> None:
    """Holders of one of `keys` may change what serves; without keys, callers on this machine that aren't web pages.

    Raises `Problem` 403.
    """
    if not keys:
        # A page in a local browser can post to loopback too; it can't leave out its origin.
        if _is_local(request) and "origin" not in request.headers:
            return
        detail = "Without keys, only callers on this machine may do this. Set PAIRWRIGHT_EMBEDDING_ADMIN_KEYS."
        raise Problem(403, "Forbidden", detail)
    if request.headers.get("authorization", "").partition(" ")[2].strip() not in keys:
        raise Problem(403, "Forbidden", "This key may not activate versions; send an admin key.")


def _is_local(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def router(versions: VersionRegistry, keys: KeySet) -> APIRouter:
    """The routes. `keys` may change what serves."""
    routes = APIRouter(tags=["versions"])
    _add_reading_routes(routes, versions)
    _add_changing_routes(routes, versions, keys)
    return routes


def _list(versions: VersionRegistry) -> VersionList:
    return VersionList(versions=[_info(versions, manifest) for manifest in versions.store.versions()])


def _add_reading_routes(routes: APIRouter, versions: VersionRegistry) -> None:
    # Not async: they read manifests from disk.
    @routes.get("/versions", summary="Every published version, its scores and its state", responses=_errors(401))
    def _versions() -> VersionList:
        return _list(versions)

    @routes.get("/versions/{id}", summary="One version, or `current`, or `previous`", responses=_errors(401, 404))
    def _version(id: str) -> VersionInfo:
        try:
            return _info(versions, versions.store.manifest(versions.store.resolve(id)))
        except (NoVersion, BrokenVersion) as error:
            raise Problem(404, "No such version", str(error)) from None


def _add_changing_routes(routes: APIRouter, versions: VersionRegistry, keys: KeySet) -> None:
    @routes.post(
        "/versions/reload",
        summary="Look at the store now; quarantined versions get another chance",
        responses=_errors(401, 403, 503),
    )
    async def _reload(request: Request, response: Response) -> VersionList:
        check_may_change(request, keys)
        await versions.reload()
        if versions.serving is None:
            raise Problem(503, "Not ready", versions.state(), {"Retry-After": str(RETRY_AFTER_S)})
        response.headers[VERSION_HEADER] = versions.serving.version
        return await asyncio.to_thread(_list, versions)

    @routes.post(
        "/versions/{id}/activate",
        summary="Serve a version from now on: promotion, or rollback (`previous`)",
        responses=_errors(401, 403, 404, 409),
    )
    async def _activate(id: str, request: Request, response: Response) -> Activation:
        check_may_change(request, keys)
        before = versions.serving.version if versions.serving else None
        try:
            version = await versions.activate(id)
        except NoVersion as error:
            raise Problem(404, "No such version", str(error)) from None
        except BrokenVersion as error:
            raise Problem(409, "Not activated", f"{error}; {before or 'nothing'} keeps serving") from None
        except OSError as error:
            detail = f"The store {versions.store.root} can't be written: {error.strerror}; {before} keeps serving"
            raise Problem(409, "Not activated", detail) from None
        response.headers[VERSION_HEADER] = version
        return Activation(version=version, previous=before)


def _info(versions: VersionRegistry, manifest: Manifest) -> VersionInfo:
    failure, serving = versions.failures.get(manifest.id), versions.serving
    loaded = versions.loaded.get(manifest.id)
    fields = {"id", "round", "created", "base", "parent", "pairs", "dimensions", "matryoshka", "scores", "int8"}
    return VersionInfo(
        **manifest.model_dump(include=fields),
        state="quarantined" if failure else _pointer_state(versions, manifest.id),
        reason=failure.reason if failure else None,
        serving=serving is not None and serving.version == manifest.id,
        loaded=loaded is not None,
        backend=loaded.backend if loaded else None,
        precision=loaded.precision if loaded else None,
    )


def _pointer_state(versions: VersionRegistry, version: str) -> State:
    if version == versions.store.current():
        return "current"
    return "previous" if version == versions.store.previous() else "published"


class ProblemDetails(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def _errors(*statuses: int) -> Responses:
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {status: {"description": DESCRIPTIONS[status], "content": content} for status in statuses}
