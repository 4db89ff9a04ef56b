"""`make check`: no retired word in code or docs. Names are the field's standard terms (docs/glossary.md)."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

RETIRED = {
    r"one[-_]?word|OneWord": "PromptEOL",
    r"(?<![a-z])views(?![a-z])|viewing|(?<![a-z])viewed|OneWordTeacher": "teacher embeddings",
    r"(?<![a-z])relations(?![a-z])|\bLesson\b": "similarity distillation",
    r"\bturned\(|\bbags\b": "rotate_to_principal_axes, bag_of_tokens_matrix",
    r"(?<![a-z])judges?(?![a-z])": "eval pairs; the gate compares",
    r"(?<![a-z])desks?(?![a-z])|_Desk\b": "admission, request map",
    r"(?<![a-z])wish(es)?(?![a-z])|\bWish\b": "request",
    r"(?<![a-z])[Ll]edgers?(?![a-z])|(?<![a-z])waves?(?![a-z])|units_in_flight": "job progress, pass, work item",
    r"(?<![a-z])[Rr]eceipts?(?![a-z])|[Pp]oison": "sample trace, abort token",
    r"written_out|\bWrongPlan\b|\bBadTask\b": "resolve, InvalidPlan, InvalidTask",
    r"(?<![a-z])watching(?![a-z])|(?<![a-z])catalogue(?![a-z])": "streaming, admin",
    r"\b(bury|buried|heals?|healed)\b": "dead-letter, repair",
    r"_outlast\b|_stirred\b|_shall_end\b|_led_at\b|\.(goes_on|tried|stands)\(": "a name that says what it does",
    r"lifeline|StatusBoard|status board|calm_threads|\bTeam\b": "die_with_parent, heartbeats, process group",
}
"""A retired word, as a regular expression, and what to say instead."""

EXEMPT = ("CHANGELOG.md", "docs/experiments/", "experiments/results/", "scripts/check_words.py", "constraints.txt")
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".example", ".gpu", ""}


def findings() -> Iterator[str]:
    """Each line that holds a retired word, with what to say instead."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    for name in listed:
        file = Path(name)
        if name.startswith(EXEMPT) or file.suffix not in TEXT or not file.is_file() or "data/" in name:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for pattern, instead in RETIRED.items():
                # A line with this comment keeps an old public name working for one version.
                if "# retired:" not in line and (match := re.search(pattern, line)):
                    yield f"{name}:{number}: {match[0]!r} is retired: say {instead}"


if __name__ == "__main__":
    lines = list(findings())
    print("\n".join(lines) or "no retired word")
    sys.exit(bool(lines))
