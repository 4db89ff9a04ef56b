"""`embed` on a real Ray cluster of two nodes, by a tiny teacher."""

import itertools
import json
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from ray.cluster_utils import Cluster

from services.trainer.cluster.embedding import EmbedOptions, ShardEmbedder, embed
from services.trainer.distillation.embedding_shards import MANIFEST, opened
from services.trainer.models.prompt_eol import PromptEOLEncoder
from shared.errors import Fatal
from shared.folder import DEATHS, Folder, Lines
from shared.settings import Settings
from tests.support.pairs import NOUNS, SYNONYMS
from tests.support.students import write_teacher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500), pytest.mark.xdist_group("ray")]

SHARD = 40
PASSAGES = [f"the {SYNONYMS[one]} near a {SYNONYMS[other]}" for one, other in itertools.combinations(NOUNS[:20], 2)]
ELSEWHERE = [f"the {one} near a {SYNONYMS[other]}" for one, other in itertools.combinations(NOUNS[:8], 2)]


def embedders() -> list[psutil.Process]:
    """The processes that hold a teacher."""
    return [one for one in psutil.process_iter(["cmdline"]) if "ShardEmbedder" in " ".join(one.info["cmdline"] or ())]


def test_a_corpus_is_embedded_once_though_a_process_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    folder, out, teacher = tmp_path / "in", tmp_path / "out", tmp_path / "teacher"
    write_teacher(teacher, tied=True, layers=5)
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"title": "", "text": text}) + "\n" for text in PASSAGES))
    (folder / "b.txt").write_text("\n".join([*PASSAGES[:5], *ELSEWHERE]) + "\n")
    settings = Settings(home=tmp_path, teacher=str(teacher))
    options = EmbedOptions(cluster.address, folder, str(out), shard_size=SHARD, cpus=1)
    killed: list[int] = []

    def kill_one(done: int, _count: int) -> None:
        if done and not killed:
            killed.append(embedders()[0].pid)
            embedders()[0].send_signal(signal.SIGKILL)

    manifest = embed(options, settings, kill_one)
    assert killed
    assert manifest["texts"] == len(PASSAGES) + len(ELSEWHERE)
    shards = list(opened(str(out), str(teacher)).shards())
    assert [text for shard in shards for text in shard.texts] == PASSAGES + ELSEWHERE
    encoder = PromptEOLEncoder(teacher)
    for shard in shards:
        np.testing.assert_allclose(shard.vectors, encoder.encode(shard.texts), atol=2e-3)  # float16
    assert not (out / "work").exists()

    # What is torn or missing is written again, by one process to the same bytes; the rest stays.
    files = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in (out / "vectors").iterdir()}
    (out / MANIFEST).unlink()
    gone, torn, *kept = sorted(files)
    gone.unlink()
    torn.write_bytes(files[torn][0][:200])
    one = EmbedOptions(cluster.address, folder, str(out), shard_size=SHARD, cpus=1, actors=1)
    assert embed(one, settings, lambda _done, _count: None) == manifest
    assert {file: file.read_bytes() for file in files} == {file: content for file, (content, _) in files.items()}
    assert all(file.stat().st_mtime_ns == files[file][1] for file in kept)
    with pytest.raises(Fatal, match="was begun with another teacher or other inputs"):
        embed(EmbedOptions("127.0.0.1:9", folder, str(out), shard_size=9), settings, lambda _done, _count: None)


def test_a_shard_of_which_processes_die_is_named(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher", tied=True)
    texts = Lines(Folder(str(tmp_path / "out")), "work/texts", SHARD)
    texts.write(0, PASSAGES[:3])
    embedder = ShardEmbedder(Settings(teacher=str(tmp_path / "teacher")), texts, "run")
    for number in range(DEATHS):  # as dead processes leave them
        assert embedder({"shard": [0]}) == {"shard": [0], "problem": [""]}
        texts.folder.write(f"work/tries/000000.run.{number}", b"")
    (problem,) = embedder({"shard": [0]})["problem"]
    assert "3 processes died of what" in problem
    assert "work/texts/000000.parquet holds" in problem
    (problem,) = ShardEmbedder(Settings(), Lines(Folder(str(tmp_path)), "texts", SHARD), "run")({"shard": [0]})[
        "problem"
    ]
    assert "another machine doesn't see it" in problem
