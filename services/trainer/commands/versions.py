"""`python -m services.trainer versions {list,show,activate,delete,push}`."""

import argparse
import json
from typing import Any

from services.trainer.publishing.retention import best
from services.trainer.settings import TrainerSettings
from shared.errors import Fatal, first_line
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion
from shared.settings import Settings

BRIEF = {"files", "probe"}


def versions(settings: Settings, _own: TrainerSettings, given: argparse.Namespace) -> None:
    """Do what was asked for. Raises `Fatal`."""
    store = ModelStore(settings.models_dir)
    try:
        if given.action == "list":
            _list(store, given.json)
        elif given.action == "show":
            _show(store, given.version)
        elif given.action == "activate":
            _activate(store, given.version, given.rejected)
        elif given.action == "delete":
            store.delete(given.version)
            print(f"{given.version} is deleted")
        else:
            _push(store, given.version, given.repo)
    except (NoVersion, BrokenVersion, ValueError) as error:
        raise Fatal(f"{error} (PAIRWRIGHT_HOME is {settings.home})") from None
    except OSError as error:
        raise Fatal(f"{settings.models_dir}: {error.strerror or error}") from None


def _list(store: ModelStore, as_json: bool) -> None:
    published, rejected = store.versions(), store.rejected()
    if as_json:
        for manifest in [*published, *rejected]:
            state = _state(store, manifest, published)
            print(json.dumps({"state": state, **manifest.model_dump(mode="json", exclude=BRIEF)}))
        return
    if not published and not rejected:
        print(f"there are no versions in {store.root} yet")
        return
    print(f"{'version':<17}  {'created':<16}  {'pairs':>8}  {'dev before':>10}  {'after':>6}  state")
    for manifest in [*published, *rejected]:
        before, after = (_number(manifest.scores.get(name)) for name in ("dev_before", "dev_after"))
        print(
            f"{manifest.id:<17}  {manifest.created:%Y-%m-%d %H:%M}  {manifest.pairs:>8}  {before:>10}  {after:>6}"
            f"  {_state(store, manifest, published)}"
        )


def _state(store: ModelStore, manifest: Manifest, published: list[Manifest]) -> str:
    if manifest.rejection is not None and not any(one.id == manifest.id for one in published):
        return f"rejected: {manifest.rejection}"
    top = best(published)
    pointers = {store.current(): "current", store.previous(): "previous"}
    words = [pointers.get(manifest.id), "best" if top and top.id == manifest.id else None]
    return ", ".join(word for word in words if word) or "published"


def _show(store: ModelStore, name: str) -> None:
    manifest = next((one for one in store.rejected() if one.id == name), None)
    folder = store.rejected_path(name) if manifest else store.path(name)
    manifest = manifest or store.manifest(store.resolve(name))
    shown: dict[str, Any] = manifest.model_dump(mode="json", exclude=BRIEF)
    print(json.dumps(shown | {"folder": str(folder), "report": str(folder / "report" / "report.html")}, indent=2))


def _activate(store: ModelStore, name: str, rejected: bool) -> None:
    candidate = any(one.id == name for one in store.rejected())
    if candidate and not rejected:
        raise Fatal(f"{name} was rejected by the gate; --rejected makes it current all the same")
    version = store.admit(name).id if candidate else store.resolve(name)
    store.verify(version)
    store.activate(version)
    print(f"{version} is current")


def _push(store: ModelStore, name: str, repo: str) -> None:
    from services.trainer.publishing.hub import push

    version = store.resolve(name)
    store.verify(version)
    try:
        print(push(store.path(version), repo, version))
    except Exception as error:  # a dozen classes of the hub's, of httpx and of the system
        raise Fatal(f"{version} can't be pushed to {repo}: {first_line(error)} (HF_TOKEN gives access)") from None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
