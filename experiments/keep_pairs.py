"""`python -m experiments.keep_pairs DIR FILE`: the sets that were trained on, in one compressed file; and back again.

Left out: pairs with a sentence of a judge, and pairs on what a teacher of 135M parameters had better not be quoted on.
That sieve is coarse, and knows words, not meanings. If `FILE` is there, its sets are written into `DIR`.
"""

import json
import lzma
import re
import sys
from itertools import groupby
from pathlib import Path

from experiments import large
from shared.errors import Fatal
from shared.process import exit_with

UNWANTED = re.compile(
    r"\b(sex\w*|porn\w*|nud(e|es|ity)|naked|rap(e|es|ed|ist|ists)|breasts?|penis|vagina|erotic\w*|orgasm\w*|"
    r"prostitut\w*|nazis?|hitler|holocaust|jew(s|ish)?|muslims?|islam\w*|christian\w*|catholic\w*|hindu\w*|jesus|"
    r"allah|quran|koran|bible|gays?|lesbians?|homosexual\w*|transgender\w*|negro\w*|blacks|whites|arabs?|gyps(y|ies)|"
    r"immigrants?|terrorists?|suicid\w*|kill (my|him|her|your)\w*|slaves?|slavery|racis\w*|genocide)\b",
    re.IGNORECASE,
)


def pack(folder: Path, target: Path) -> None:
    """Sets to file. Raises `Fatal`."""
    sets, _ = large.read(folder, large.DECIDING)
    with lzma.open(target, "wt", preset=9, encoding="utf-8") as file:
        for name in large.EVERYTHING:
            for one, other, score in sets[name]:
                if not UNWANTED.search(one) and not UNWANTED.search(other):
                    row = {"set": name, "sentence1": one, "sentence2": other, "score": score}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def unpack(source: Path, folder: Path) -> None:
    """File to sets."""
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(source, "rt", encoding="utf-8") as file:
        for name, lines in groupby(file, key=lambda line: str(json.loads(line)["set"])):
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(folder: Path, file: Path) -> None:
    """Whichever is there."""
    if file.is_file():
        unpack(file, folder)
    else:
        pack(folder, file)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except Fatal as fatal:
        exit_with("experiments", fatal)
