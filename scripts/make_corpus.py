"""`python -m scripts.make_corpus`: let the default teacher write the corpus that its student learns from, and embed it.

One sentence about each of the vocabulary's commonest words, so that most words that a text may have are in one. All of
the repository's corpus is replaced; its second part is from a GPU (`services/trainer/distillation/data/README.md`).
35 minutes on two cores; interrupted, the same command goes on. The sentences differ from machine to machine, because
the engine runs without batch invariance, for speed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from scripts.stack import run_command
from shared import teacher
from shared.errors import Fatal
from shared.process import ROOT
from shared.settings import Settings, load

TASK = Path(__file__).with_name("corpus_task.json")
CORPUS = ROOT / "services" / "trainer" / "distillation" / "data" / "sentences.txt"
DECODING = {"top_k": 40, "top_p": 1.0}
"""Cut by rank: with top-p over the whole vocabulary sentences came about half as fast."""


def main() -> None:
    """Write, then embed. Raises `Fatal`."""
    parser = argparse.ArgumentParser(description="Let the default teacher write its student's corpus, and embed it.")
    parser.add_argument("--words", type=int, default=10_500, help="so many words, a sentence about each (%(default)s)")
    folder = ROOT / ".pairwright" / "corpus"
    parser.add_argument("--folder", type=Path, default=folder, help="for what is in the making (%(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    inputs, plan, pairs = (options.folder / name for name in ("words.txt", "plan.json", "pairs.jsonl"))
    inputs.write_text("\n".join(_words(options.words)) + "\n", encoding="utf-8")
    plan.write_text(json.dumps({"prompt_form": "plain", "decoding": DECODING}), encoding="utf-8")
    _run("services.generation", "generate", "--task", TASK, "--inputs", inputs, "--plan", plan, "--out", pairs)
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    texts = dict.fromkeys(" ".join(row["sentence2"].split()) for row in rows)
    CORPUS.write_text("\n".join(texts) + "\n", encoding="utf-8")
    _run("services.trainer.distillation.corpus")


def _words(count: int) -> list[str]:
    """The vocabulary's words, the commonest first, each in its commonest spelling."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher.default_teacher(load(Settings).cache_dir), local_files_only=True)
    spellings: dict[str, str] = {}
    for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))):
        # \u0120 stands for the space before a word.
        if re.fullmatch(r"\u0120[A-Za-z]{3,}", token):
            spellings.setdefault(token[1:].lower(), token[1:])
    return list(spellings.values())[:count]


def _run(module: str, *arguments: object) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PAIRWRIGHT_GENERATION_BATCH_INVARIANT": "false"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise Fatal(f"`python -m {module}` failed, see above")


if __name__ == "__main__":
    run_command("corpus", main)
