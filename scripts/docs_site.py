"""`make docs`: the documentation as a site in `site/`, from the same files that a repository's viewer shows.

Zensical wants all pages in one folder, and our Markdown lies beside what it describes. So the pages are copied into
`.docs_cache/pages`, links between them are made to fit, and the API reference and two lists are added.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scripts.api_reference import documents, page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / ".docs_cache" / "pages"

BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "experiments/README.md": "experiments.md",
    "deploy/kubernetes/README.md": "kubernetes.md",
}
"""Pages of the site that are not in docs/, and their names there."""
LISTS = {"decisions": "Decisions", "experiments": "Experiments"}
"""Folders of docs/ that get a list of their pages."""
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def sources() -> list[Path]:
    """Every Markdown file that becomes a page, from the repository's root."""
    return [*map(Path, BESIDE), *sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))]


def place(source: Path) -> Path:
    """Where a file of the repository lies among the pages."""
    if source.as_posix() in BESIDE:
        return Path(BESIDE[source.as_posix()])
    if source.parts[0] == "docs":
        return source.relative_to("docs")
    return Path("files", str(source).lstrip("."))


def write_pages(folder: Path) -> None:
    """Fill `folder` with the pages, the API reference, the lists, and the files that pages link to."""
    for source in sources():
        text = LINK.sub(partial(_relink, source, folder), (ROOT / source).read_text("utf-8"))
        _write(folder / place(source), text)
    for service, document in documents().items():
        _write(folder / "api" / f"{service}.md", page(service, document))
    for name, title in LISTS.items():
        _write(folder / name / "index.md", "\n".join([f"# {title}", "", *_listed(ROOT / "docs" / name)]) + "\n")
    shutil.copytree(ROOT / "docs" / "images", folder / "images")


def _relink(source: Path, folder: Path, link: re.Match[str]) -> str:
    target = Path(os.path.normpath(source.parent / link[0]))
    if (ROOT / target).is_dir():
        there = place(target / "index.md")
    else:
        there = place(target)
        if there.parts[0] == "files":
            (folder / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / target, folder / there)
    return os.path.relpath(there, place(source).parent)


def _listed(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.md")):
        title = path.read_text("utf-8").split("\n", 1)[0].lstrip("# ")
        yield f"- [{title}]({path.name})"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the pages and build the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    write_pages(PAGES)
    zensical = Path(sys.executable).with_name("zensical")
    sys.exit(subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
