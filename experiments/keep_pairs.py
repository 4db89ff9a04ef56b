"""`python -m experiments.keep_pairs DIR FILE`: the sets' pairs as the default student learns them when it is made.

Left out: pairs with a sentence of a judge, and pairs on what a teacher of 135M parameters had better not be quoted on.
That sieve is coarse, and knows words, not meanings.
"""

import json
import lzma
import re
import sys
from pathlib import Path

from experiments import large
from services.trainer.evaluation import Row
from shared.process import Fatal, exit_with

UNWANTED = re.compile(
    r"\b(sex\w*|porn\w*|nud(e|es|ity)|naked|rap(e|es|ed|ist|ists)|breasts?|penis|vagina|erotic\w*|orgasm\w*|"
    r"prostitut\w*|nazis?|hitler|holocaust|jew(s|ish)?|muslims?|islam\w*|christian\w*|catholic\w*|hindu\w*|jesus|"
    r"allah|quran|koran|bible|gays?|lesbians?|homosexual\w*|transgender\w*|negro\w*|blacks|whites|arabs?|gyps(y|ies)|"
    r"immigrants?|terrorists?|suicid\w*|kill (my|him|her|your)\w*|slaves?|slavery|racis\w*|genocide)\b",
    re.IGNORECASE,
)


def kept(sets: dict[str, list[Row]]) -> list[Row]:
    """Each pair once, by sentence1."""
    found = {row for name in large.EVERYTHING for row in sets[name]}
    return sorted(row for row in found if not any(map(UNWANTED.search, row[:2])))


def main(folder: Path, target: Path) -> None:
    """Read, sift, write. Raises `Fatal`."""
    with lzma.open(target, "wt", preset=9, encoding="utf-8") as file:
        for one, other, score in kept(large.read(folder, large.DECIDING)[0]):
            file.write(json.dumps({"sentence1": one, "sentence2": other, "score": score}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except Fatal as fatal:
        exit_with("experiments", fatal)
