"""`make docs`: the documentation as a site in `site/`, from the same files that a repository's viewer shows.

Zensical wants all pages in one folder: they are copied into `.docs_cache/pages`, with links that fit, the API reference
and two lists.
"""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from scripts.api_reference import documents, page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / ".docs_cache" / "pages"

BESIDE = {
    Path("README.md"): Path("index.md"),
    Path("CHANGELOG.md"): Path("changelog.md"),
    Path("examples/README.md"): Path("examples.md"),
    Path("experiments/README.md"): Path("experiments.md"),
    Path("deploy/kubernetes/README.md"): Path("kubernetes.md"),
}
"""Pages of the site that are not in docs/, and their names there."""
LISTS = ("decisions", "experiments")
"""Folders of docs/ that get a list of their pages."""
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def sources() -> list[Path]:
    """Every Markdown file that becomes a page, from the repository's root."""
    return [*BESIDE, *sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))]


def place(source: Path) -> Path:
    """Where a file of the repository lies among the pages."""
    if source.is_relative_to("docs"):
        return source.relative_to("docs")
    return BESIDE.get(source) or Path("files", str(source).lstrip("."))


def write_pages(folder: Path) -> None:
    """Fill `folder` with the pages, the API reference, the lists, and the files that pages link to."""
    for source in sources():
        text = LINK.sub(partial(_relink, source, folder), (ROOT / source).read_text("utf-8"))
        _write(folder / place(source), text)
    for service, document in documents().items():
        _write(folder / "api" / f"{service}.md", page(service, document))
    for name in LISTS:
        pages = sorted((ROOT / "docs" / name).glob("*.md"))
        titles = [path.read_text("utf-8").split("\n", 1)[0].lstrip("# ") for path in pages]
        links = [f"- [{title}]({path.name})" for title, path in zip(titles, pages, strict=True)]
        _write(folder / name / "index.md", "\n".join([f"# {name.title()}", "", *links]) + "\n")
    shutil.copytree(ROOT / "docs" / "images", folder / "images")


def _relink(source: Path, folder: Path, link: re.Match[str]) -> str:
    target = Path(os.path.normpath(source.parent / link[0]))
    is_folder = (ROOT / target).is_dir()
    there = place(target / "index.md" if is_folder else target)
    if there.parts[0] == "files" and not is_folder:
        (folder / there).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / target, folder / there)
    return os.path.relpath(there, place(source).parent)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    shutil.rmtree(PAGES, ignore_errors=True)
    write_pages(PAGES)
    zensical = Path(sys.executable).with_name("zensical")
    sys.exit(subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT).returncode)
