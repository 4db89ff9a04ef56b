"""`embed`: a file of texts into a file of vectors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

from services.embedding.__main__ import load_version
from services.embedding.commands import embed
from services.embedding.settings import EmbeddingSettings
from shared.errors import Fatal
from shared.model_store import ModelStore
from shared.settings import Settings
from tests.support.versions import DIMENSIONS, publish, static_student

ROOT = Path(__file__).resolve().parents[3]
TEXTS = [f"the {colour} dog is {verb} a very long river" for colour in ("red", "green") for verb in ("eating", "away")]


def run(home: Path, *arguments: object) -> dict[str, Any]:
    options = embed.parse([str(argument) for argument in arguments])
    own = EmbeddingSettings(precision="float32")
    return embed.embed_file(options, Settings(home=home), own, load_version)


def failure(home: Path, *arguments: object) -> str:
    with pytest.raises(Fatal) as error:
        run(home, *arguments)
    assert not list(home.glob(".*.tmp"))
    return str(error.value)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Many texts of different lengths, with ids."""
    file = tmp_path / "texts.jsonl"
    rows = [{"_id": f"d{number}", "text": " ".join(TEXTS[: 1 + number % 4])} for number in range(300)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def texts_of(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


def test_every_format_holds_what_sentence_transformers_gives(
    tmp_path: Path, store: ModelStore, transformer: SentenceTransformer, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "PORTION_TEXTS", 64)
    version = publish(store, transformer, 0).id
    expected = transformer.encode(texts_of(texts), normalize_embeddings=True)
    outs = {suffix: tmp_path / f"vectors{suffix}" for suffix in (".jsonl", ".npy", ".parquet")}
    for out in outs.values():
        summary = run(tmp_path, "--in", texts, "--out", out)
        assert (summary["version"], summary["rows"], summary["truncated"]) == (version, 300, 150)
    rows = [json.loads(line) for line in outs[".jsonl"].read_text().splitlines()]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, atol=1e-5)
    np.testing.assert_allclose(np.load(outs[".npy"]), expected, atol=1e-5)
    table = parquet.read_table(outs[".parquet"])
    np.testing.assert_allclose(table["embedding"].to_pylist(), expected, atol=1e-5)
    for column, values in (("id", [f"d{number}" for number in range(300)]), ("text", texts_of(texts))):
        assert [row[column] for row in rows] == table[column].to_pylist() == values


def test_prompt_version_length_and_type(tmp_path: Path, store: ModelStore, texts: Path) -> None:
    student = static_student(seed=1)
    student.prompts = {"query": "red "}
    old = publish(store, student, 0, matryoshka=[8]).id
    publish(store, static_student(seed=2), 1)
    out = tmp_path / "vectors.npy"
    options = ("--input-type", "search_query", "--dimensions", 8, "--output-dtype", "ubinary")
    assert run(tmp_path, "--in", texts, "--out", out, "--version", "previous", *options)["version"] == old
    prompted = [f"red {text}" for text in texts_of(texts)]
    vectors = student.encode(prompted, normalize_embeddings=True, truncate_dim=8)
    assert np.array_equal(np.load(out), quantize_embeddings(vectors, "ubinary"))


def test_columns_are_joined_and_others_left_out(
    tmp_path: Path, store: ModelStore, static_one: SentenceTransformer
) -> None:
    publish(store, static_one, 0)
    source, out = tmp_path / "corpus.csv", tmp_path / "vectors.jsonl"
    source.write_text("title,body,year\na dog,is eating,1999\n")
    run(tmp_path, "--in", source, "--out", out, "--column", "Title", "--column", "body")
    row = json.loads(out.read_text())
    assert (row.keys(), row["text"]) == ({"text", "embedding"}, "a dog is eating")
    np.testing.assert_allclose(
        row["embedding"], static_one.encode("a dog is eating", normalize_embeddings=True), atol=1e-6
    )


def test_a_bad_row_ends_it_before_anything_is_written(
    tmp_path: Path, store: ModelStore, static_one: SentenceTransformer, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(store, static_one, 0)
    source, out = tmp_path / "texts.jsonl", tmp_path / "vectors.npy"
    out.write_bytes(b"an older file")
    source.write_text('"a dog"\n{"text": 3}\n{"text": ""}\n{"text": "\\ud800"}\nno JSON\n"no"\n')
    assert "line 2: text: '3' is no text" in failure(tmp_path, "--in", source, "--out", out)
    assert out.read_bytes() == b"an older file"
    summary = run(tmp_path, "--in", source, "--out", out, "--skip-bad")
    assert (summary["rows"], summary["passed_over"]) == (2, 4)
    assert "4 rows" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(out), static_one.encode(["a dog", "no"], normalize_embeddings=True), atol=1e-6)


def test_what_can_be_wrong_is_said_in_one_line(
    tmp_path: Path, store: ModelStore, static_one: SentenceTransformer, texts: Path
) -> None:
    out = tmp_path / "vectors.npy"
    assert "--version: there is no version 'current'" in failure(tmp_path, "--in", texts, "--out", out)
    publish(store, static_one, 0)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for options, message in (
        (("--in", texts, "--out", tmp_path / "vectors.csv"), "--out: "),
        (("--in", texts, "--out", tmp_path / "nowhere" / "vectors.npy"), "there is no folder"),
        (("--in", tmp_path / "missing.txt", "--out", out), "missing.txt: can't be read"),
        (("--in", empty, "--out", out), "holds no text"),
        (("--in", texts, "--out", out, "--column", "body"), "line 1: has no body"),
        (("--in", texts, "--out", out, "--prompt-name", "x"), "--prompt-name: "),
        (("--in", texts, "--out", out, "--dimensions", 3), "--dimensions: `dimensions` 3: "),
    ):
        assert message in failure(tmp_path, *options)
        assert not out.exists()


@pytest.mark.slow
def test_the_command(tmp_path: Path, store: ModelStore, static_one: SentenceTransformer, texts: Path) -> None:
    publish(store, static_one, 0)
    out = tmp_path / "vectors.parquet"
    command = [sys.executable, "-m", "services.embedding", "embed", "--in", str(texts), "--out", str(out)]
    environment = os.environ | {"PAIRWRIGHT_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["unknown"]) == (300, 0)
    assert parquet.read_metadata(out).num_rows == 300
    wrong = subprocess.run([*command, "--version", "x"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("pairwright embedding: --version: there is no version 'x'")
    helped = subprocess.run([*command[:4], "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "--output-dtype" in helped.stdout
    assert len(parquet.read_table(out)["embedding"][0]) == DIMENSIONS
