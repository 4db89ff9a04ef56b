"""Our own route: `GET /versions`, every published version and what became of it."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from services.embedding.versions import Versions
from shared.model_store import Manifest

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
    """It can be named in `model`."""
    round: int
    created: datetime
    base: str
    parent: str | None
    pairs: int
    dimensions: int
    scores: dict[str, float]


class VersionList(BaseModel):
    """All of them, oldest round first."""

    versions: list[VersionInfo]


def router(versions: Versions) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["versions"])

    # Not async: it reads every manifest from disk.
    @routes.get("/versions", summary="Every published version, its scores and its state")
    def _versions() -> VersionList:
        return VersionList(versions=[_info(versions, manifest) for manifest in versions.store.versions()])

    return routes


def _info(versions: Versions, manifest: Manifest) -> VersionInfo:
    fault = versions.faults.get(manifest.id)
    serving = versions.serving
    return VersionInfo(
        **manifest.model_dump(include={"id", "round", "created", "base", "parent", "pairs", "dimensions", "scores"}),
        state="quarantined" if fault else _pointed(versions, manifest.id),
        reason=fault.reason if fault else None,
        serving=serving is not None and serving.version == manifest.id,
        loaded=manifest.id in versions.loaded,
    )


def _pointed(versions: Versions, version: str) -> State:
    if version == versions.store.current():
        return "current"
    return "previous" if version == versions.store.previous() else "published"
