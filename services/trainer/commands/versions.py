"""`python -m services.trainer versions {list,show,activate,pin,unpin,delete,push}`."""

import contextlib
import json
from collections.abc import Iterator
from typing import Annotated

import typer

from services.trainer.commands.base import configured, group
from services.trainer.publishing.retention import best
from shared.errors import Fatal, first_line
from shared.manifest import Manifest
from shared.model_store import BrokenVersion, ModelStore, NoVersion

BRIEF = {"files", "probe"}
HEAD = "label-free estimate (95 % interval)"
Version = Annotated[str, typer.Argument(metavar="VERSION", help="an id, current or previous")]
Rejected = Annotated[bool, typer.Option("--rejected", help="overrule the gate")]

app = group("List, show, activate, pin and delete versions.")


@contextlib.contextmanager
def _store() -> Iterator[ModelStore]:
    """The configured store. Its errors become `Fatal`."""
    settings = configured()
    try:
        yield ModelStore(settings.models_dir)
    except (NoVersion, BrokenVersion, ValueError) as error:
        raise Fatal(f"{error} (PAIRWRIGHT_HOME is {settings.home})") from None
    except OSError as error:
        raise Fatal(f"{settings.models_dir}: {error.strerror or error}") from None


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="print one JSON object a line")] = False) -> None:
    """All versions, and rejected candidates."""
    with _store() as store:
        published, rejected = store.versions(), store.rejected()
        states = [(manifest, _state(store, manifest, published)) for manifest in [*published, *rejected]]
    if as_json:
        for manifest, state in states:
            print(json.dumps({"state": state, **manifest.model_dump(mode="json", exclude=BRIEF)}))
        return
    if not states:
        print(f"there are no versions in {store.root} yet")
        return
    rows = [(manifest, state, _estimates(manifest)) for manifest, state in states]
    width = max(len(HEAD), *(len(estimates) for _, _, estimates in rows))
    print(f"{'version':<17}  {'created':<16}  {'pairs':>8}  {HEAD:<{width}}  state")
    for manifest, state, estimates in rows:
        row = f"{manifest.id:<17}  {manifest.created:%Y-%m-%d %H:%M}  {manifest.pairs:>8}  {estimates:<{width}}"
        print(f"{row}  {state}")


@app.command()
def show(version: Version) -> None:
    """One version's manifest, and its report's place."""
    with _store() as store:
        manifest = next((one for one in store.rejected() if one.id == version), None)
        folder = store.rejected_path(version) if manifest else store.path(version)
        manifest = manifest or store.manifest(store.resolve(version))
    places = {"folder": str(folder), "report": str(folder / "report" / "report.html")}
    print(json.dumps(manifest.model_dump(mode="json", exclude=BRIEF) | places, indent=2))


@app.command()
def activate(version: Version, rejected: Rejected = False) -> None:
    """Make a version current; with --rejected, a candidate that the gate refused."""
    with _store() as store:
        is_candidate = any(one.id == version for one in store.rejected())
        if is_candidate and not rejected:
            raise Fatal(f"{version} was not published by the gate; --rejected makes it current all the same")
        id_ = store.admit(version).id if is_candidate else store.resolve(version)
        store.verify(id_)
        store.activate(id_)
    print(f"{id_} is current")


@app.command()
def pin(version: Version) -> None:
    """Make a version current, and keep it so whatever is published."""
    with _store() as store:
        id_ = store.resolve(version)
        store.verify(id_)
        store.pin(id_)
    print(f"{id_} is current and pinned; `versions unpin` ends it")


@app.command()
def unpin() -> None:
    """Let what is published become current again."""
    with _store() as store:
        store.unpin()
    print("nothing is pinned; the next version that is published becomes current")


@app.command()
def delete(version: Version) -> None:
    """Delete a version or a rejected candidate."""
    with _store() as store:
        store.delete(version)
    print(f"{version} is deleted")


@app.command()
def push(version: Version, repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name")]) -> None:
    """Push a version to the model hub."""
    from services.trainer.publishing import hub

    with _store() as store:
        id_ = store.resolve(version)
        store.verify(id_)
        try:
            print(hub.push(store.path(id_), repo, id_))
        except Exception as error:  # a dozen classes of the hub's, of httpx and of the system
            raise Fatal(f"{id_} can't be pushed to {repo}: {first_line(error)} (HF_TOKEN gives access)") from None


def _estimates(manifest: Manifest) -> str:
    """The version's, and the base's on the same texts."""
    own, base = (manifest.estimates.get(student, {}) for student in ("candidate", "base"))
    beside = {kind: f"; base {one.value:.1f}" for kind, one in base.items()}
    parts = [
        f"{kind} {one.value:.1f} ({one.low:.1f} to {one.high:.1f}{beside.get(kind, '')})" for kind, one in own.items()
    ]
    return ", ".join(parts) or "-"


def _state(store: ModelStore, manifest: Manifest, published: list[Manifest]) -> str:
    if manifest.rejection is not None and not any(one.id == manifest.id for one in published):
        return f"{'held' if manifest.held else 'rejected'}: {manifest.rejection}"
    top = best(published)
    pointers = {store.current(): "current", store.previous(): "previous"}
    words = [pointers.get(manifest.id), "best" if top and top.id == manifest.id else None]
    by_hand = f"by hand, against the gate: {manifest.rejection}" if manifest.rejection is not None else None
    pinned = "pinned" if store.pinned() == manifest.id else None
    return ", ".join(word for word in [*words, pinned, by_hand] if word) or "published"
