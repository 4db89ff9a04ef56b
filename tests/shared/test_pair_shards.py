"""A folder of pairs in several files: whole, or refused in one line."""

import json
from pathlib import Path

import pytest

from shared.errors import Fatal
from shared.pair_shards import MANIFEST, shard_files


def write_manifest(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)


def test_files_come_in_the_manifest_s_order_with_their_counts(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    write_manifest(tmp_path, json.dumps({"shards": [{"file": "b", "pairs": 2}, {"file": "a", "pairs": 1}]}))
    assert list(shard_files(tmp_path).items()) == [(tmp_path / "b", 2), (tmp_path / "a", 1)]


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"holds no manifest\.json: it isn't finished"):
        shard_files(tmp_path)
    write_manifest(tmp_path, json.dumps({"shards": [{"file": "a", "pairs": 1}]}))
    with pytest.raises(Fatal, match=r"a is missing: .*manifest\.json names it"):
        shard_files(tmp_path)
    for text in ("{", "[]", '{"shards": [{}]}'):
        write_manifest(tmp_path, text)
        with pytest.raises(Fatal, match="is not a manifest of pairs"):
            shard_files(tmp_path)
