"""The documentation holds together: links, widths, names of settings and files, and the pages that are made of code."""

import re
from functools import cache
from pathlib import Path

import pytest

from scripts.api_reference import documents, page
from scripts.docs_site import place, sources, write_pages
from services.embedding.settings import EmbeddingSettings
from services.generation.settings import GenerationSettings
from services.trainer.settings import TrainerSettings
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"docs/metrics.md"}
EVERY = [str(path) for path in sources()]
OURS = [source for source in EVERY if not source.startswith("experiments/")]
WIDTH = 100
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]+)?\)")
SETTING = re.compile(r"(?:PAIRWRIGHT)?_[A-Z][A-Z_]*[A-Z]")
FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|yml|toml|json|jsonl|xz))`")


def text_of(source: str) -> str:
    return (ROOT / source).read_text(encoding="utf-8")


@cache
def settings() -> set[str]:
    """Every variable that our settings classes read, and those that compose, set-up and the examples read."""
    names = {
        f"{kind.model_config['env_prefix']}{field}".upper()
        for kind in (Settings, GenerationSettings, TrainerSettings, EmbeddingSettings)
        for field in kind.model_fields
    }
    others = [".env.example", "scripts/setup.py", *map(str, (ROOT / "examples").glob("with_*"))]
    return names.union(*(SETTING.findall(text_of(source)) for source in others))


@pytest.mark.parametrize("source", EVERY)
def test_links_lead_to_files_and_headings_that_exist(source: str) -> None:
    for target, heading in LINK.findall(FENCE.sub("", text_of(source))):
        file = (ROOT / source).parent / target if target else ROOT / source
        assert file.exists(), f"{source}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading[1:] in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("source", [source for source in OURS if source not in GENERATED])
def test_lines_are_short(source: str) -> None:
    """But for tables, and lines that a link makes long."""
    for number, line in enumerate(text_of(source).splitlines(), 1):
        assert len(line) <= WIDTH or line.startswith("|") or "](" in line, f"{source}:{number}"


def test_the_readme_is_one_page() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_glossary_has_at_most_25_words_in_order() -> None:
    words = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text_of("docs/glossary.md"), re.MULTILINE)[2:]
    assert 10 < len(words) <= 25
    assert words == sorted(words, key=str.lower)


@pytest.mark.parametrize("source", OURS)
def test_settings_that_are_named_exist(source: str) -> None:
    text = text_of(source)
    if source == "CHANGELOG.md":  # its table of renamed settings has the old ones
        text = re.sub(r"^\| setting \|.*$", "", text, flags=re.MULTILINE)
    for name in set(re.findall(r"(?<!\w)(?:PAIRWRIGHT)?_[A-Z][A-Z_]*[A-Z](?!\w)", text)):
        # `_MARGIN` after `PAIRWRIGHT_TRAINER_GATE_CONFIDENCE` is the end of a name.
        assert any(setting == name or (name[0] == "_" and setting.endswith(name)) for setting in settings()), name


@pytest.mark.parametrize("source", OURS)
def test_files_that_are_named_exist(source: str) -> None:
    for name in FILE.findall(text_of(source)):
        # From the root, or below the service that the text is about.
        assert (ROOT / name).exists() or any(ROOT.glob(f"*/**/{name}")), f"{source}: {name}"


@pytest.mark.slow
def test_where_to_add_names_what_the_files_hold() -> None:
    answers = text_of("docs/architecture.md").split("## Where to add")[1].split("\n\n")[1:]
    assert len(answers) == 6
    for answer in answers:
        names = re.findall(r"`([^`]+)`", answer.replace("\n", " "))
        files = [next(iter([*ROOT.glob(name), *ROOT.glob(f"*/**/{name}")])) for name in names if name.endswith(".py")]
        code = "".join(file.read_text(encoding="utf-8") for file in files)
        for name in names:
            if re.fullmatch(r"[A-Za-z_.]+", name) and not name.endswith(".py"):
                assert re.search(rf"\b{name.rsplit('.', 1)[-1]}\b", code), name


def test_the_site_has_every_page_and_route(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    write_pages(folder)
    assert {place(source) for source in sources()} <= {path.relative_to(folder) for path in folder.rglob("*.md")}
    for made in folder.rglob("*.md"):
        for target, _ in LINK.findall(FENCE.sub("", made.read_text(encoding="utf-8"))):
            assert not target or (made.parent / target).is_file(), f"{made}: {target}"
    described = documents()
    assert "/generate" in described["generation"]["paths"]
    assert "/embed" in described["embedding"]["paths"]
    for service, document in described.items():
        reference = (folder / "api" / f"{service}.md").read_text(encoding="utf-8")
        assert reference == page(service, document)
        for path, operations in document["paths"].items():
            for method in operations:
                assert f"## `{method.upper()} {path}`\n" in reference


def test_the_menu_of_the_site_names_pages_that_are_made(tmp_path: Path) -> None:
    write_pages(tmp_path / "pages")
    for name in re.findall(r'= "(\S+\.md)"', text_of("zensical.toml")):
        assert (tmp_path / "pages" / name).is_file(), name
