"""What keeps a model store healthy over months: finding damage and getting over it, and deleting what nobody needs."""

import logging

from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion

log = logging.getLogger(__name__)


def repair(store: ModelStore) -> str | None:
    """If the current version is damaged or gone, move it out of the way and go back to the newest sound one.

    Returns what happened; None when nothing was wrong. `current` may then name nothing: the base is published anew.
    """
    version = store.current()
    fault = _fault(store, version) if version is not None else None
    if version is None or fault is None:
        return None
    store.quarantine(version)
    if store.pinned() is not None:
        store.unpin()  # there is nothing to keep current
    for candidate in [store.previous(), *reversed([manifest.id for manifest in store.versions()])]:
        if candidate not in (None, version) and _fault(store, candidate) is None:
            store.activate(candidate)
            return f"{fault}; {candidate} is current again"
    return f"{fault}; no sound version is left"


def best(versions: list[Manifest]) -> Manifest | None:
    """The version with the highest label-free estimate, on average over kinds of tasks; None when none has one."""
    measured = [manifest for manifest in versions if manifest.estimates.get("candidate")]
    return max(measured, key=_mean_estimate, default=None)


def _mean_estimate(manifest: Manifest) -> float:
    values = [one.value for one in manifest.estimates["candidate"].values()]
    return sum(values) / len(values)


def retain(store: ModelStore, newest: int) -> list[str]:
    """Delete all but current, previous, best and the `newest` last, rejected ones too; their ids. Raises OSError."""
    versions = store.versions()
    top = best(versions)
    kept = {store.current(), store.previous(), top.id if top else None, *(one.id for one in versions[-newest:])}
    gone = [one.id for one in versions if one.id not in kept] + [one.id for one in store.rejected()[:-newest]]
    for version in gone:
        store.delete(version)
    if gone:
        log.info("deleted %s", ", ".join(gone))
    return gone


def _fault(store: ModelStore, version: str) -> str | None:
    try:
        store.verify(version)
    except (BrokenVersion, NoVersion) as error:
        return str(error).split("; published:")[0]
    return None
