"""Libraries of others are the files that npm has, whole and listed."""

import hashlib
import json
import re
from pathlib import Path

from scripts.console import FILES, LIST, SOURCE, VENDOR

ROOT = Path(__file__).resolve().parents[3]
OURS = {"versions.json", "htm-preact.d.ts"}


def test_every_vendored_file_is_listed_and_unchanged() -> None:
    listed = json.loads(LIST.read_text())
    assert set(listed) == set(FILES)
    assert {file.name for file in VENDOR.iterdir()} - OURS == {Path(name).name for name in listed if "vendor" in name}
    for name, facts in listed.items():
        assert hashlib.sha256((ROOT / name).read_bytes()).hexdigest() == facts["sha256"], name


def test_the_list_says_what_the_lock_file_says() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    for facts in json.loads(LIST.read_text()).values():
        locked = lock[f"node_modules/{facts['package']}"]
        assert (facts["version"], facts["integrity"]) == (locked["version"], locked["integrity"])


def test_every_library_has_its_licence_beside_it() -> None:
    for name in ("htm-preact", "preact", "uplot"):
        assert (VENDOR / f"{name}.LICENSE").stat().st_size > 500


def test_nothing_is_fetched_from_elsewhere() -> None:
    for file in [*SOURCE.glob("static/*"), *SOURCE.glob("static/screens/*")]:
        if file.suffix in (".js", ".css", ".html"):
            # Addresses in lines to copy, until the page knows the services.
            text = re.sub(r"http://127\.0\.0\.1:800[23]", "", file.read_text())
            assert "http:" not in text, file
            assert "https:" not in text, file
