"""The names that docs/metrics.md promises."""

import re

from scripts.metrics_page import PAGE

NAME = re.compile(r"\b(?:pairwright|process|te)_[a-z0-9_]+\b")


def used_on_the_page() -> dict[str, str]:
    """Each metric on the page, as committed, with its kind."""
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def sample_names(page: dict[str, str]) -> set[str]:
    """What a query may name, and what `# TYPE` lines name."""
    names = set(page)
    for name, kind in page.items():
        if kind == "histogram":
            names |= {name + suffix for suffix in ("_bucket", "_sum", "_count")}
    return names


def names_in(query: str) -> set[str]:
    """The metrics that a query of PromQL names."""
    return set(NAME.findall(re.sub(r'"[^"]*"', '""', query)))
