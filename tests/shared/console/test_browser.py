"""The console as people use it: a real browser, the three services as processes, a tiny teacher.

One browser and one system for all, in order: what a test leaves is what the next one finds.
"""

import csv
import json
import shutil
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from shared.queue import EmbeddedServer
from tests.support.browser import chromium, drop, serious_faults
from tests.support.ports import free_port
from tests.support.tiny_system import ROOT, TinySystem

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("console")]

VIEWS = ("start", "watch", "pairs", "rounds", "versions", "map", "playground", "system")
HOSTILE = '<img src=x onerror="window.hit = 1"><script>window.hit = 2</script><b>not bold</b>'
PATIENCE_MS = 60_000
MAP_PATIENCE_MS = 180_000
"""A map is computed by a process of its own, which loads its libraries first."""
SECRET = "key-of-the-browser-test"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, server: EmbeddedServer) -> Iterator[TinySystem]:
    """The three services, ready."""
    system = TinySystem(tmp_path_factory.mktemp("console"), server.url, PAIRWRIGHT_DATASET="console")
    try:
        system.wait_until_ready()
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, system: TinySystem) -> Iterator[Page]:
    """A page whose errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    expect.set_options(timeout=PATIENCE_MS)
    yield page
    context.close()
    assert errors == []


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Markdown files, and a table of sentences; one of each is hostile."""
    folder = tmp_path_factory.mktemp("texts")
    handbook = folder / "handbook" / "guests"
    handbook.mkdir(parents=True)
    for number in range(1, 7):
        text = (
            f"The kitchen opens at {number} in the morning and guests may bring a dog. Nobody may smoke in the house."
        )
        (handbook / f"rule-{number}.md").write_text(f"# Rule {number}\n\n## Kitchen\n\n{text}\n")
    (handbook / "hostile.md").write_text(f"# {HOSTILE}\n\nGuests of the house say {HOSTILE} nothing at night.\n")
    (handbook / "notes.xyz").write_text("of no kind that is read")
    with (folder / "sentences.csv").open("w", newline="") as file:
        table = csv.writer(file)
        # No column has a name that is looked for: the one with most text is meant.
        table.writerow(["topic", "heard of", "id"])
        table.writerow(["hostile", f"Guests say {HOSTILE} here.", "0"])
        table.writerows(
            ["bikes", f"A man is repairing bicycle number {number}.", str(number)] for number in range(1, 25)
        )
    return folder


def show(page: Page, system: TinySystem, view: str, service: str = "generation") -> None:
    page.goto(f"{system.url(service)}/console/#{view}")
    # A new hash alone leaves the last view in place until the new one is fetched.
    expect(page.get_by_role("heading", level=1)).to_have_text(view.split("/")[0].capitalize())


def nothing_ran(page: Page) -> None:
    """No markup of the data became an element, and no script of it ran."""
    assert page.evaluate("window.hit") is None
    assert page.locator("main img[src='x'], main script, main b").count() == 0


def published(system: TinySystem) -> list[dict[str, Any]]:
    answer = httpx.get(f"{system.url('embedding')}/versions", timeout=30)
    return list(answer.json()["versions"]) if answer.status_code == 200 else []


def pairs(system: TinySystem, **filters: Any) -> list[dict[str, Any]]:
    answer = httpx.get(f"{system.url('trainer')}/pairs", params={"limit": 1000, **filters}, timeout=30)
    return list(answer.json()["pairs"])


@pytest.fixture
def filled(system: TinySystem) -> None:
    """Pairs are there, some hostile, also where another worker ran the test that drops files."""
    if pairs(system, text="onerror"):
        return
    inputs = [f"Guests say {HOSTILE} here.", *(f"A man is repairing bicycle number {number}." for number in range(24))]
    headers = {"Prefer": "wait=300"}
    job = httpx.post(f"{system.url('generation')}/generate", json={"inputs": inputs}, headers=headers, timeout=310)
    assert job.json()["state"] == "complete", job.text[:500]
    system.wait_until(lambda: len(pairs(system)) == job.json()["accepted"], "the pairs in the dataset")


def test_from_a_dropped_folder_to_a_promoted_version(page: Page, system: TinySystem, texts: Path) -> None:
    show(page, system, "start")
    drop(page, "#drop", [texts / "handbook", texts / "sentences.csv"])
    expect(page.get_by_text("8 files")).to_be_visible()
    expect(page.get_by_text("handbook/guests/notes.xyz")).to_be_visible()
    cut = page.get_by_role("region", name="How it is cut")
    expect(cut.locator(".stat", has_text="documents")).to_contain_text("7")
    expect(cut.locator(".stat", has_text="sentences")).to_contain_text("25")
    expect(cut.get_by_role("img", name="Lengths in tokens")).to_be_visible()
    expect(cut).to_contain_text(f"Guests say {HOSTILE} here.")
    nothing_ran(page)
    before = len(pairs(system))
    page.get_by_role("button", name="Preview ten pairs").click()
    for task in ("sts", "retrieval"):
        expect(page.get_by_role("region", name=f"Preview of {task}").locator("tbody tr")).not_to_have_count(0)
    expect(page.locator("section[aria-labelledby=go] p[role=status]", has_text="rejected")).to_have_count(2)
    assert len(pairs(system)) == before
    page.get_by_role("button", name="Start 2 jobs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Watch")
    job = page.get_by_role("region", name="Newest pairs")
    page.get_by_role("link", name="sts").filter(has_not_text="preview").click()
    expect(page.locator("#job")).to_contain_text("sts")
    expect(job.locator("tbody tr")).not_to_have_count(0)
    expect(page.locator("section[aria-labelledby=job] .chip").first).to_have_text("complete")
    nothing_ran(page)

    page.get_by_role("link", name="Rounds").click()
    expect(page.locator("section[aria-labelledby=rounds]")).to_contain_text("Round 1")
    expect(page.locator("section[aria-labelledby=round] .chip").first).to_have_text("published")
    page.get_by_role("link", name="Versions").click()
    timeline = page.locator(".timeline > li")
    expect(timeline.first).to_contain_text("serves")
    newest, base = (timeline.nth(place).get_attribute("data-version") for place in (0, -1))
    assert newest != base
    page.locator(f"[data-version={base}]").get_by_role("button", name="Roll back").click()
    expect(page.locator(f"[data-version={base}]")).to_contain_text("serves")
    page.locator(f"[data-version={newest}]").get_by_role("button", name="Roll back").click()
    expect(page.locator(f"[data-version={newest}]")).to_contain_text("serves")
    assert [one["id"] for one in published(system) if one["serving"]] == [newest]


def test_the_column_with_most_text_is_read_until_another_is_chosen(page: Page, system: TinySystem, texts: Path) -> None:
    show(page, system, "start")
    drop(page, "#drop", [texts / "sentences.csv"])
    sentences = page.get_by_role("region", name="How it is cut").locator(".stat", has_text="sentences").locator("dd")
    expect(sentences).to_have_text("25")
    column = page.get_by_label("of column")
    expect(column).to_have_value("heard of")
    column.select_option("topic")
    expect(sentences).to_have_text("2")


@pytest.mark.usefixtures("filled")
def test_a_correction_is_in_the_next_round(page: Page, system: TinySystem) -> None:
    show(page, system, "pairs")
    rows = page.get_by_role("region", name="Pairs of the dataset").locator("tbody tr")
    expect(rows).not_to_have_count(0)
    first = rows.first
    given = pairs(system)[0]
    assert given["sentence1"] in first.inner_text()
    wanted = 0.85
    score = first.get_by_label("Score")
    score.fill(str(wanted))
    score.press("Enter")
    expect(first).to_contain_text("corrected")
    first.get_by_label("checked").check()
    expect(page.get_by_text("1 checked")).to_be_visible()
    second = pairs(system)[1]
    rows.nth(1).get_by_role("button", name="Delete").click()
    expect(rows.nth(1)).to_have_text("Deleted.")

    rounds = {one["round"] for one in published(system)}
    page.get_by_role("link", name="Rounds").click()
    page.get_by_role("button", name="Train now").click()
    expect(page.locator("section[aria-labelledby=round] h2")).not_to_have_text(f"Round {max(rounds)}")
    expect(page.locator("section[aria-labelledby=round] .chip").first).to_have_text("published")
    system.wait_until(lambda: {one["round"] for one in published(system)} - rounds, "another version")
    newest = max(published(system), key=lambda one: int(one["round"]))
    split = json.loads((system.home / "models" / "console" / "versions" / newest["id"] / "manifest.json").read_text())
    kept = {(one["sentence1"], one["sentence2"]): one["score"] for one in pairs(system)}
    assert kept[given["sentence1"], given["sentence2"]] == wanted
    assert (second["sentence1"], second["sentence2"]) not in kept
    assert newest["pairs"] == split["pairs"] == len(kept)
    summary = httpx.get(f"{system.url('trainer')}/pairs/summary", timeout=30).json()
    assert summary["new"] == 0, "the round has learned the correction"
    httpx.get(f"{system.url('trainer')}/map", timeout=30)  # a later test looks at it


@pytest.mark.usefixtures("filled")
def test_filters_and_export(page: Page, system: TinySystem) -> None:
    show(page, system, "pairs")
    rows = page.get_by_role("region", name="Pairs of the dataset").locator("tbody tr")
    expect(rows).not_to_have_count(0)
    page.get_by_label("Search").fill("onerror")
    expect(rows).to_have_count(len(pairs(system, text="onerror")))
    nothing_ran(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export what is filtered").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == len(pairs(system, text="onerror")) > 0
    page.get_by_label("Order").select_option("surprise")
    page.get_by_role("button", name="Clear").click()
    expect(rows.first).not_to_contain_text("Deleted")


def test_what_was_rejected_is_shown_by_its_reason(page: Page, system: TinySystem) -> None:
    """The teacher knows Latin letters alone, so nothing that it writes is of the given sentence's script."""
    given = "Гости дома крепко спят ночью."
    plan = {"inputs": [given], "filters": ["script"]}
    headers = {"Prefer": "wait=300"}
    job = httpx.post(f"{system.url('generation')}/generate", json=plan, headers=headers, timeout=310).json()
    assert job["state"] == "exhausted"
    show(page, system, f"watch/{job['id']}")
    expect(page.locator("section[aria-labelledby=job]")).to_contain_text("fewer pairs than were asked for")
    show(page, system, f"pairs/job/{job['id']}")
    page.get_by_label("Show").select_option("script")
    rows = page.get_by_role("region", name="Rejected texts").locator("tbody tr")
    expect(rows).to_have_count(job["rejected_by_reason"]["script"])
    expect(rows.first).to_contain_text(given)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("region", name="Pairs of the dataset")).not_to_contain_text(given)


@pytest.mark.usefixtures("filled")
def test_the_lines_to_copy_are_the_requests_that_the_page_sends(page: Page, system: TinySystem) -> None:
    show(page, system, "playground")
    texts = [f"Guests say {HOSTILE} it's here.", "A man is repairing bicycle number 1."]
    page.get_by_label("Sentences, one a line").fill("\n".join(texts))
    page.get_by_role("button", name="Compare").click()
    cell = page.get_by_role("region", name="Cosines of the sentences").locator("tbody tr").first.locator("td").nth(1)
    one, other = json.loads(
        subprocess.run(["bash", "-c", line_of(page, "similar", "curl")], stdout=subprocess.PIPE).stdout
    )
    expect(cell).to_have_text(f"{sum(a * b for a, b in zip(one, other, strict=True)):.2f}".replace("-0.00", "0.00"))
    page.get_by_label("Query").fill("Who says it's here?")
    page.get_by_role("button", name="Search").click()
    nearest = page.get_by_role("region", name="Nearest texts").locator("tbody tr").first
    expect(nearest).to_be_visible()
    done = subprocess.run([sys.executable, "-c", line_of(page, "nearest", "Python")], stdout=subprocess.PIPE, text=True)
    assert f"{literal_eval(done.stdout)[0]['score']:.2f}" in nearest.inner_text()
    if shutil.which("jq"):
        done = subprocess.run(["bash", "-c", line_of(page, "nearest", "curl")], stdout=subprocess.PIPE, text=True)
        assert f"{json.loads(done.stdout)[0]['score']:.2f}" in nearest.inner_text()


def line_of(page: Page, panel: str, language: str) -> str:
    section = page.locator(f"section[aria-labelledby={panel}]")
    if not section.locator("pre").is_visible():
        section.get_by_text("This request as a line to copy").click()
    section.get_by_role("button", name=language, exact=True).click()
    return section.locator("pre").inner_text()


@pytest.mark.usefixtures("filled")
def test_hostile_texts_are_texts_everywhere(page: Page, system: TinySystem) -> None:
    for view in VIEWS:
        show(page, system, view)
        if view == "pairs":
            page.get_by_label("Search").fill("onerror")
            expect(page.get_by_role("region", name="Pairs of the dataset")).to_contain_text(HOSTILE)
        if view == "playground":
            page.get_by_label("Sentences, one a line").fill(f"{HOSTILE}\nA man is repairing bicycle number 1.")
            page.get_by_role("button", name="Compare").click()
            expect(page.get_by_role("region", name="Cosines of the sentences")).to_contain_text("<img src=x")
            page.get_by_label("Query").fill(f"Guests say {HOSTILE} here.")
            page.get_by_role("button", name="Search").click()
            expect(page.get_by_role("region", name="Nearest texts")).to_contain_text(HOSTILE)
        if view == "map":
            page.get_by_label("Find").fill("onerror", timeout=MAP_PATIENCE_MS)
            expect(page.locator("section[aria-labelledby=found]")).to_contain_text("<img src=x")
        if view == "versions":
            page.get_by_role("button", name="Report").first.click()
            expect(page.locator(".report")).to_contain_text("Round")
        nothing_ran(page)


def test_a_service_that_is_killed_and_comes_back(page: Page, system: TinySystem) -> None:
    show(page, system, "system", "trainer")
    card = page.locator("section[aria-labelledby=generation]")
    expect(card.locator(".chip").first).to_have_text("ready")
    system.kill("generation")
    expect(card.locator(".chip").first).to_have_text("down")
    expect(card).to_contain_text("make up")
    expect(page.locator(".lamp.down")).to_contain_text("generation")
    system.start_again("generation")
    expect(card.locator(".chip").first).to_have_text("ready")
    expect(page.locator(".lamp.down")).to_have_count(0)


def test_a_stopped_job_is_resumed(page: Page, system: TinySystem) -> None:
    plan = {"task": "sts", "num_inputs": 400}
    job = httpx.post(f"{system.url('generation')}/generate", json=plan, timeout=30).json()["id"]
    show(page, system, f"watch/{job}")
    chip = page.locator("section[aria-labelledby=job] .chip").first
    page.get_by_role("button", name="Stop").click()
    expect(chip).to_have_text("cancelled")
    page.get_by_role("button", name="Resume").click()
    expect(chip).to_have_text("running")
    httpx.delete(f"{system.url('generation')}/jobs/{job}", timeout=30)
    expect(chip).to_have_text("cancelled")


def test_keys_are_typed_once_and_stay_out_of_addresses(browser: Browser, page: Page, system: TinySystem) -> None:
    """A second embedding service of the same versions, which asks for a key."""
    port = free_port()
    own = {"PAIRWRIGHT_EMBEDDING_PORT": str(port), "PAIRWRIGHT_EMBEDDING_URL": f"http://127.0.0.1:{port}"}
    environment = {**system.environment, **own, "PAIRWRIGHT_API_KEYS": SECRET}
    process = subprocess.Popen([sys.executable, "-m", "services.embedding"], cwd=ROOT, env=environment)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        system.wait_until(lambda: _answers(port), "the service with keys")
        page.goto(f"http://127.0.0.1:{port}/console/#versions")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        dialog.get_by_label("Key", exact=True).fill(SECRET)
        dialog.get_by_role("button", name="Use it").click()
        expect(page.locator(".timeline > li").first).to_be_visible()
        page.reload()
        expect(page.locator(".timeline > li").first).to_be_visible()
        assert not any(SECRET in address for address in asked)
        assert SECRET not in page.url
        context = browser.new_context()
        other = context.new_page()
        other.goto(f"http://127.0.0.1:{port}/console/#versions")
        expect(other.get_by_role("dialog")).to_be_visible()
        context.close()
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_from_sentences_to_a_served_version_by_keyboard_alone(page: Page, system: TinySystem) -> None:
    show(page, system, "system")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Start")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Start")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    _tab_to(page, "Or paste sentences, one a line")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("The harbour is calm tonight.\nA dog sleeps under the table.")
    _tab_to(page, "Start the job")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Watch")
    expect(page.locator("section[aria-labelledby=job] .chip").first).to_have_text("complete")
    _go_to(page, "Rounds")
    _tab_to(page, "Train now")
    page.keyboard.press("Enter")
    expect(page.get_by_text("starts.")).to_be_visible()
    expect(page.locator("section[aria-labelledby=round] .chip").first).to_have_text("published")
    _go_to(page, "Versions")
    serving = page.locator(".timeline > li.now")
    newest = page.locator(".timeline > li").first.get_attribute("data-version")
    expect(serving).to_have_attribute("data-version", newest or "")
    _tab_to(page, "Roll back")
    page.keyboard.press("Enter")
    expect(serving).not_to_have_attribute("data-version", newest or "")
    _tab_to(page, "Roll back")
    page.keyboard.press("Enter")
    expect(serving).to_have_attribute("data-version", newest or "")


def _go_to(page: Page, view: str) -> None:
    """By the page's navigation."""
    _tab_to(page, view)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(view)


def _tab_to(page: Page, name: str) -> None:
    """Tab until what has the focus is called so; from the end of the page, it goes on at its beginning."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == name:
            return
    pytest.fail(f"{name!r} is not reached by the key Tab")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(page: Page, system: TinySystem, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 844})
    for view in VIEWS:
        show(page, system, view)
        expect(page.locator("main .panel").first).to_be_visible()
        expect(page.locator("main", has_text="…").locator("p", has_text="…")).to_have_count(0)
        if view == "rounds":
            expect(page.locator(".chart .u-legend").last).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        # In the dark, all but the colours is the same.
        assert serious_faults(page, "color-contrast" if scheme == "dark" else None) == [], view
