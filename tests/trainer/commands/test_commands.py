"""`python -m services.trainer dataset ...` and `versions ...`."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from services.trainer.dataset.store import open_dataset
from shared.manifest import Card, Estimate
from shared.model_store import ModelStore
from shared.pairs import Pair
from shared.queue import EmbeddedServer
from shared.stream import Append
from tests.support.command_line import failure, run_command
from tests.support.pairs import make_pairs, records
from tests.support.publisher import write_model
from tests.support.trainer import ROOT, send


class Commands:
    """The commands on a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = ModelStore(home / "models" / "default")

    def __call__(self, *arguments: object) -> str:
        """What a command that must work prints."""
        return run_command(self.home, *arguments)

    def fails(self, *arguments: object) -> str:
        """The message of a command that must not work."""
        return failure(self.home, *arguments)

    def pairs(self) -> list[Pair]:
        """What the dataset has, in the order it came."""
        with open_dataset(self.home / "datasets" / "default", read_only=True) as dataset:
            return [Pair(**dict(record.pair)) for record, _ in dataset.records()]


@pytest.fixture
def command(tmp_path: Path) -> Commands:
    return Commands(tmp_path / "home")


def fill(command: Commands, count: int = 30) -> list[Pair]:
    with open_dataset(command.home / "datasets" / "default") as dataset:
        dataset.add(records(make_pairs(count)))
    return make_pairs(count)


def start(home: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command as its users do."""
    command = [sys.executable, "-m", "services.trainer", *map(str, arguments)]
    environment = os.environ | {"PAIRWRIGHT_HOME": str(home)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_process_ends_with_its_answer_or_with_one_line(command: Commands) -> None:
    fill(command, 3)
    done = start(command.home, "dataset", "stats", "--json")
    assert (done.returncode, json.loads(done.stdout)["pairs"], done.stderr) == (0, 3, "")
    done = start(command.home, "versions", "list")
    assert (done.returncode, done.stdout) == (0, f"there are no versions in {command.store.root} yet\n")
    done = start(command.home, "versions", "show", "current")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("pairwright trainer: there is no version 'current'")
    done = start(command.home, "dataset", "import")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Missing argument" in done.stderr


@pytest.mark.slow
def test_reading_part_of_a_command_s_output_is_no_error(command: Commands) -> None:
    with command.store.staging() as staged:
        write_model(staged)
        command.store.publish(staged, Card(base="b" * 2**17, round=1, pairs=9, dimensions=2), [[0.0]] * 4)
    process = subprocess.Popen(
        [sys.executable, "-m", "services.trainer", "versions", "list", "--json"],
        cwd=ROOT, env=os.environ | {"PAIRWRIGHT_HOME": str(command.home)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")
    process.stderr.close()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_an_export_is_imported_again_as_it_was(command: Commands, tmp_path: Path, kind: str) -> None:
    pairs = fill(command)
    said = command("dataset", "export", tmp_path / "out", "--format", kind)
    assert said.startswith(f"30 pairs are in {tmp_path / 'out' / f'pairs.{kind}'}")
    card = (tmp_path / "out" / "README.md").read_text()
    other = Commands(tmp_path / "other")
    assert other("dataset", "import", tmp_path / "out" / f"pairs.{kind}").startswith("30 new pairs of 30")
    assert other.pairs() == command.pairs() == pairs
    assert other("dataset", "import", tmp_path / "out" / f"pairs.{kind}").startswith("0 new pairs of 30")
    stats, again = (json.loads(one("dataset", "stats", "--json")) for one in (command, other))
    assert stats == again
    assert stats["hash"] in card
    assert stats["origins"] == [{"teacher": "default", "task": "sts", "label": "1", "pairs": 30}]
    assert f"data_files: pairs.{kind}" in card


def test_a_folder_that_a_cluster_wrote_is_imported_as_one(command: Commands, tmp_path: Path) -> None:
    folder, made = tmp_path / "out", make_pairs(5)
    (folder / "pairs").mkdir(parents=True)
    assert "it isn't finished" in command.fails("dataset", "import", folder)
    shards = []
    for name, some in (("00-000000", made[:3]), ("01-000000", made[3:])):
        rows = [pair.model_dump() | {"label": "1", "task": "sts", "teacher": "t", "seed": 7} for pair in some]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs" / f"{name}.parquet")
        shards.append({"file": f"pairs/{name}.parquet", "pairs": len(some)})
    (folder / "manifest.json").write_text(json.dumps({"shards": shards}))
    assert command("dataset", "import", folder).startswith(f"5 new pairs of 5 in {folder}")
    assert command.pairs() == made
    assert "t, sts, 1: 5" in command("dataset", "stats")


def test_the_original_dino_s_files_are_taken(command: Commands, tmp_path: Path) -> None:
    file = tmp_path / "sts-dino-x2.jsonl"
    rows = [
        ("A man plays.", "A man is playing.", "1"),
        ("A man plays.", "A man eats.", 0.5),
        ("A man plays.", "No.", "0"),
    ]
    file.write_text("".join(json.dumps({"text_a": a, "text_b": b, "label": label}) + "\n" for a, b, label in rows))
    assert command("dataset", "import", file).startswith("3 new pairs of 3")
    assert command.pairs() == [Pair(sentence1=a, sentence2=b, score=float(str(label))) for a, b, label in rows]
    assert "sts-dino-x2.jsonl, import, 0.5: 1" in command("dataset", "stats")


def test_other_scales_and_forms_are_taken(command: Commands, tmp_path: Path) -> None:
    rows = [("5.0", 'A "quote', "b"), ("2.5", "c", "d")]
    tsv, comma = tmp_path / "a.tsv", tmp_path / "b.csv"
    tsv.write_text("score\tsentence1\tsentence2\n" + "".join("\t".join(row) + "\n" for row in rows))
    with comma.open("w", newline="") as out:
        writer = csv.DictWriter(out, ["score", "sentence1", "sentence2"])
        writer.writeheader()
        writer.writerow({"score": 1, "sentence1": "e, f", "sentence2": "g"})
    command("dataset", "import", tsv, "--scale", 0, 5, "--source", "people")
    command("dataset", "import", comma, "--scale", 0, 5)
    assert [(pair.sentence1, pair.score) for pair in command.pairs()] == [('A "quote', 1.0), ("c", 0.5), ("e, f", 0.2)]
    assert "people, import, 5.0: 1" in command("dataset", "stats")


def test_a_bad_row_is_named_and_what_was_good_is_kept(command: Commands, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = {"sentence1": "a", "sentence2": "b", "score": 1}
    for bad, told in (
        (good | {"score": 7}, "line 2: score: 7 is not within 0 to 1; --scale LOW HIGH says another scale"),
        (good | {"score": "high"}, "line 2: score: 'high' is not a number"),
        (good | {"sentence2": None}, "line 2: sentence2 is empty"),
        (good | {"sentence2": "two\nlines"}, "line 2: sentence2: must be one line of text"),
    ):
        file.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
        assert f"{file}, {told}" in command.fails("dataset", "import", file)
        assert len(command.pairs()) == 1
    assert "1 rows were no pairs" in command("dataset", "import", file, "--skip-bad")
    file.write_text("{")
    assert command.fails("dataset", "import", file).startswith(f"{file}, line 1: is not JSON")
    file.write_text("")
    assert command.fails("dataset", "import", file) == f"{file}: has no rows"
    for low, high in ((1, 1), (0, "inf"), ("nan", 1)):
        told = command.fails("dataset", "import", file, "--scale", low, high)
        assert told == "--scale: LOW must be less than HIGH"
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert "broken.parquet: can't be read" in command.fails("dataset", "import", tmp_path / "broken.parquet")
    assert command.fails("dataset", "import", tmp_path / "none.csv").startswith("there is no file")


def test_a_pair_that_is_imported_again_with_another_score_is_updated(command: Commands, tmp_path: Path) -> None:
    [first, *others], file = fill(command, 3), tmp_path / "mended.jsonl"
    turned = first.model_copy(update={"sentence1": first.sentence2, "sentence2": first.sentence1, "score": 0.25})
    file.write_text("".join(one.model_dump_json() + "\n" for one in (turned, *others)))
    assert command("dataset", "import", file).startswith(f"0 new pairs of 3 in {file}, 1 updated; ")
    assert command.pairs() == [*others, turned]
    assert command("dataset", "import", file).startswith(f"0 new pairs of 3 in {file}, 0 updated; ")
    assert json.loads(command("dataset", "stats", "--json"))["pairs"] == 3


def test_pairs_are_deleted_by_what_is_given_and_never_all_at_once(command: Commands) -> None:
    pairs = fill(command, 30)
    told = "name the pairs by --job, --task, --label, --score or --text"
    for nothing in ((), ("--dry-run",), ("--text", "", "--job", "job")):
        assert command.fails("dataset", "delete", *nothing).startswith(told)
    assert command("dataset", "delete", "--job", "").startswith("0 pairs of the dataset default are selected")
    assert command("dataset", "delete", "--score", 0.5, "--dry-run").startswith("10 pairs of the dataset default")
    assert len(command.pairs()) == 30
    assert command("dataset", "delete", "--score", 0.5, "--job", "job").startswith("10 pairs were deleted, 20 are left")
    assert command.pairs() == [pair for pair in pairs if pair.score != 0.5]
    stats = json.loads(command("dataset", "stats", "--json"))
    assert (stats["pairs"], stats["new_pairs"], stats["scores"]) == (20, 20, {"0": 10, "1": 10})
    command("dataset", "delete", "--task", "sts", "--label", "1")
    assert command.pairs() == []
    assert json.loads(command("dataset", "stats", "--json"))["hash"] is None
    assert "there is no dataset in" in Commands(command.home / "other").fails("dataset", "delete", "--job", "job")


def test_a_deleted_pair_may_come_by_the_queue_again(
    command: Commands, own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAIRWRIGHT_REDIS_URL", own_server.url)
    [pair] = fill(command, 1)
    send(own_server.url, [pair], job="one")
    command("dataset", "delete", "--text", pair.sentence1)
    assert send(own_server.url, [pair], job="two") == [Append.ACCEPTED]


def test_files_of_other_people_are_taken_as_they_are(command: Commands, tmp_path: Path) -> None:
    excel = tmp_path / "excel.CSV"
    excel.write_bytes(b'\xef\xbb\xbfsep=;\r\nSentence 1; Sentence_2 ;Score\r\n"a; b";c;1\r\n;;\r\nd;e;0,5\r\nf;g;0,5,0')
    told = f"{excel}, line 6: score: '0,5,0' is not a number"
    assert told in command.fails("dataset", "import", excel)
    triplets = tmp_path / "pairs.json"
    triplets.write_text(json.dumps([{"anchor": "f\u2028g", "positive": "h", "similarity": 1, "seed": "7"}]))
    assert "row 1: has no sentence1 (nor text_a" in command.fails("dataset", "import", triplets)
    told = "its columns are 'anchor', 'positive', 'similarity', 'seed'; --columns NAME=sentence1 says which"
    assert told in command.fails("dataset", "import", triplets)
    command("dataset", "import", triplets, "--columns", "anchor=sentence1, Positive=sentence2")
    assert [(one.sentence1, one.sentence2, one.score) for one in command.pairs()] == [
        ("a; b", "c", 1),
        ("d", "e", 0.5),
        ("f g", "h", 1),
    ]
    for wrong in ("anchor", "=score", "anchor=sentence3"):
        assert "must be THEIRS=OURS" in command.fails("dataset", "import", triplets, "--columns", wrong)


@pytest.mark.parametrize("seed", ["n/a", 1.5, 2**70, [], "1e400"])
def test_a_seed_that_is_none_is_a_bad_row(command: Commands, tmp_path: Path, seed: object) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"sentence1": "a", "sentence2": "b", "score": 1, "seed": seed}))
    assert f"{file}, line 1: seed: {str(seed)[:40]!r} is not a whole number" in command.fails("dataset", "import", file)
    assert "none of its 1 rows is a pair; line 1: seed" in command.fails("dataset", "import", file, "--skip-bad")


def test_parquet_columns_are_the_pair_s_and_its_provenance(command: Commands, tmp_path: Path) -> None:
    fill(command, 3)
    command("dataset", "export", tmp_path)
    [first, *_] = parquet.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert first.keys() >= {"sentence1", "sentence2", "score", "teacher", "task", "label", "job", "seed"}
    assert not list(tmp_path.glob(".*.tmp"))


def publish(command: Commands, round_: int, estimate: float, reject: str | None = None) -> str:
    with command.store.staging() as staged:
        write_model(staged)
        estimates = {
            student: {"grouping": Estimate(value=value, low=value - 1, high=value + 1)}
            for student, value in (("candidate", estimate), ("base", 60))
        }
        card = Card(base="b", round=round_, pairs=9, dimensions=2, estimates=estimates)
        if reject is not None:
            return command.store.reject(staged, card, [[0.0]] * 4, reject).id
        return command.store.publish(staged, card, [[0.0]] * 4).id


def test_versions_are_listed_shown_activated_and_deleted(command: Commands) -> None:
    assert "no versions" in command("versions", "list")
    first, second, third = publish(command, 1, 80), publish(command, 2, 70), publish(command, 3, 75)
    bad = publish(command, 4, 1, reject="74.00 points worse")
    listed = {
        json.loads(line)["id"]: json.loads(line)["state"] for line in command("versions", "list", "--json").splitlines()
    }
    assert listed == {first: "best", second: "previous", third: "current", bad: "rejected: 74.00 points worse"}
    lines = command("versions", "list").splitlines()[1:]
    assert [line.split()[0] for line in lines] == [first, second, third, bad]
    assert "grouping 80.0 (79.0 to 81.0; base 60.0)  best" in lines[0]
    assert json.loads(command("versions", "show", "previous"))["id"] == second
    assert json.loads(command("versions", "show", bad))["rejection"] == "74.00 points worse"

    assert command("versions", "activate", "previous") == f"{second} is current\n"
    assert (command.store.current(), command.store.previous()) == (second, third)
    assert "is the current version: activate another one first" in command.fails("versions", "delete", second)
    command("versions", "delete", third)
    assert command.store.previous() is None
    assert [manifest.id for manifest in command.store.versions()] == [first, second]

    assert "--rejected makes it current all the same" in command.fails("versions", "activate", bad)
    command("versions", "activate", bad, "--rejected")
    assert command.store.current() == bad
    assert command.store.verify(bad).rejection == "74.00 points worse"
    [line] = [line for line in command("versions", "list").splitlines() if line.startswith(bad)]
    assert line.endswith("  current, by hand, against the gate: 74.00 points worse")
    assert command.store.rejected() == []
    assert command.fails("versions", "show", "r000009-00000000").startswith("there is no version 'r000009-00000000'")


def test_a_version_is_pinned_and_unpinned(command: Commands) -> None:
    first, second = publish(command, 1, 80), publish(command, 2, 70)
    assert command("versions", "pin", first) == f"{first} is current and pinned; `versions unpin` ends it\n"
    third = publish(command, 3, 75)
    assert command.store.current() == first
    states = {line.split()[0]: line.rsplit("  ", 1)[1] for line in command("versions", "list").splitlines()[1:]}
    assert states == {first: "current, best, pinned", second: "previous", third: "published"}
    assert command.fails("versions", "pin", "r000009-00000000").startswith("there is no version")
    assert "nothing is pinned" in command("versions", "unpin")
    assert command.store.current() == first
    assert publish(command, 4, 75) == command.store.current()


def test_a_damaged_version_is_not_activated(command: Commands) -> None:
    first, _ = publish(command, 1, 80), publish(command, 2, 70)
    file = command.store.path(first) / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(b"x")
    assert "model.safetensors was changed after publication" in command.fails("versions", "activate", first)
    assert command.store.current() != first
