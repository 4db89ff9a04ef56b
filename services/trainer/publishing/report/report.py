"""What a person reads of a version: `README.md` (the model card), `report/report.md` and `report/report.html`."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.trainer.dataset.store import Origin
from services.trainer.evaluation.sts import Row
from services.trainer.publishing.report import plots
from services.trainer.publishing.report.confusion import Disagreement, find_disagreements
from shared.manifest import Card

WORST = 12
MOST_ORIGINS = 20

HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, pairwright]
---
"""

USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
model.similarity(model.encode(["A man plays the guitar."]), model.encode(["Someone makes music."]))
```"""

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1f23}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #d8dee4;
text-align:left;vertical-align:top}img{max-width:100%}code{background:#f3f4f6;padding:.1rem .3rem;border-radius:.2rem}
.rejected{background:#fdecea;border-left:4px solid #c0392b;padding:.5rem 1rem}"""


@dataclass(frozen=True)
class Findings:
    """All that a report tells. For round 0, the untrained base, most is empty."""

    card: Card
    rejection: str | None
    history: Sequence[Mapping[str, float]]
    dev: Sequence[Row]
    before: npt.NDArray[np.float64] | None
    after: npt.NDArray[np.float64] | None
    """Cosines of the dev pairs, in their order."""
    origins: Sequence[Origin]


def write_report(folder: Path, findings: Findings) -> None:
    """Write the model card, and both forms of the report with its pictures, into a staged version."""
    target = folder / "report"
    target.mkdir()
    found = None
    if findings.after is not None and findings.dev:
        found = find_disagreements(findings.dev, findings.after, WORST)
    pictures = _draw(findings, found, target)
    text = _report(findings, found, pictures)
    (target / "report.md").write_text(text, encoding="utf-8")
    (target / "report.html").write_text(_html(text, target, findings.rejection is not None), encoding="utf-8")
    (folder / "README.md").write_text(_model_card(findings), encoding="utf-8")


def _draw(findings: Findings, found: Disagreement | None, target: Path) -> dict[str, str]:
    """Draw what there is to draw; title to file name."""
    card, pictures = findings.card, dict[str, str]()
    if any("loss" in point for point in findings.history):
        plots.loss(findings.history, target / "loss.png")
        pictures["Training loss"] = "loss.png"
    if any("dev" in point for point in findings.history):
        on_generated = card.selected_by is not None and card.selected_by.startswith("generated")
        before = card.scores.get("dev_before") if on_generated else None
        plots.dev_score(findings.history, before, card.training.get("best_step"), target / "dev.png")
        pictures[f"Score over the steps, on {card.selected_by}"] = "dev.png"
    if found is not None and findings.after is not None:
        plots.histograms(findings.dev, findings.before, findings.after, target / "histograms.png")
        pictures["Cosines of the generated dev pairs, by label"] = "histograms.png"
        plots.confusion(found, target / "confusion.png")
        pictures["Generated labels and what the student makes of them"] = "confusion.png"
    if card.human_scores:
        plots.human(card.human_scores["before"], card.human_scores["after"], target / "sts.png")
        pictures["Human-scored sets"] = "sts.png"
    return pictures


def _report(findings: Findings, found: Disagreement | None, pictures: Mapping[str, str]) -> str:
    card = findings.card
    parts = [f"# Round {card.round} of `{card.dataset}`"]
    if findings.rejection is not None:
        parts.append(f"**Rejected:** {findings.rejection}.")
    parts += [_table(("", ""), _facts(card)), *_scores(card)]
    parts += [f"## {title}\n\n![{title}]({name})" for title, name in pictures.items()]
    if found is not None and found.worst:
        rows = [(row[0], row[1], f"{row[2]:g}", f"{cosine:.2f}", looks) for row, cosine, looks in found.worst]
        head = ("sentence 1", "sentence 2", "label", "cosine", "looks like")
        parts.append("## Pairs that are furthest off\n\nFaults of the student, or of the teacher that wrote the label.")
        parts.append(_table(head, rows))
    if findings.origins:
        parts += ["## Where the pairs come from", _origins(findings.origins)]
    return "\n\n".join(parts) + "\n"


def _facts(card: Card) -> list[tuple[str, str]]:
    facts = [
        ("base", f"`{card.base}`"),
        ("continued from", f"`{card.start}`" if card.start else "the base"),
        ("version before", f"`{card.parent}`" if card.parent else "none"),
        ("pairs", f"{card.pairs}"),
        ("dataset hash", f"`{card.dataset_hash}`"),
        ("vectors", f"{card.dimensions} dimensions"),
        ("code", f"Pairwright {card.code_version}"),
    ]
    if card.split:
        split = card.split
        facts.append(("training rows", f"{split['train']}, of which {split['random']} with random partners"))
        facts.append(("held out by sentence1", f"{split['held_out']} pairs, {split['dev']} of them measured"))
        facts.append(("left out", f"{split['left_out']}"))
        facts.append(("pairs by score", ", ".join(f"{name}: {count}" for name, count in split["labels"].items())))
        facts.append(("checkpoint chosen by", card.selected_by or "nothing: the last step was kept"))
    if card.recipe:
        facts.append(
            ("recipe", ", ".join(f"{name} {value}" for name, value in card.recipe.items() if value is not None))
        )
    if card.training:
        took = card.training
        speed = f", {took['pairs_s']} rows/s" if "pairs_s" in took else ""
        facts.append(("training took", f"{took['seconds']:.1f} s{speed}, at most {took['peak_mib']} MiB"))
        if took.get("resumed_at") is not None:
            facts.append(("resumed", f"at step {took['resumed_at']}, after a death"))
    return facts


def _scores(card: Card) -> list[str]:
    """Two tables, because the two kinds of scores are never compared."""
    parts = []
    if card.scores:
        rows = [(_number(card.scores.get("dev_before")), _number(card.scores.get("dev_after")))]
        parts += [
            "## On generated dev pairs",
            "Spearman x 100. No human label was used.",
            _table(("before", "after"), rows),
        ]
    for version, found in card.gate.get("compared", {}).items():
        parts.append(
            f"Against version `{version}` on the same pairs: {found['value']:+.2f} points, 95 % interval"
            f" {found['low']:+.2f} to {found['high']:+.2f} (paired bootstrap, by sentence1)."
        )
    if "note" in card.gate:
        parts.append(f"Gate: {card.gate['note']}.")
    if card.human_scores:
        before, after = card.human_scores["before"], card.human_scores["after"]
        rows_ = [(name, _number(before.get(name)), _number(after[name])) for name in after]
        parts += ["## On human-scored pairs", "Spearman x 100.", _table(("set", "before", "after"), rows_)]
    return parts


def _origins(origins: Sequence[Origin]) -> str:
    rows = [(origin.teacher, origin.task, origin.label, str(origin.pairs)) for origin in origins[:MOST_ORIGINS]]
    if len(origins) > MOST_ORIGINS:
        rest = origins[MOST_ORIGINS:]
        rows.append((f"{len(rest)} more", "", "", str(sum(origin.pairs for origin in rest))))
    return _table(("teacher", "task", "label", "pairs"), rows)


def _model_card(findings: Findings) -> str:
    card = findings.card
    what = "A student fine-tuned on generated sentence pairs." if card.pairs else "The base student, untrained."
    selected = card.selected_by is not None and card.selected_by.startswith("human")
    labels = "A human-scored set chose the checkpoint." if selected else "No human label was used."
    if not card.pairs:
        labels = ""
    parts = ["# A sentence encoder made by Pairwright", f"{what} {labels}".strip(), USE, _table(("", ""), _facts(card))]
    parts += _scores(card)
    if findings.origins:
        parts += ["## The data", "Every pair names its teacher; what came from elsewhere was imported.",
                  _origins(findings.origins)]  # fmt: skip
    parts.append("Plots and the worst pairs: `report/report.html`. Licences of base and teacher apply.")
    return HEAD + "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Sentences are anybody's text: nothing in them may end the cell or begin markup."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _html(text: str, folder: Path, rejected: bool) -> str:
    """The report in one file that opens anywhere: the Markdown that we write ourselves, and the pictures inside it."""
    body = "\n".join(_block(block, folder, rejected) for block in text.strip().split("\n\n"))
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Report</title><style>{STYLE}</style>\n{body}\n'


def _block(block: str, folder: Path, rejected: bool) -> str:
    if picture := re.fullmatch(r"!\[(.*)\]\((.*)\)", block):
        data = base64.b64encode((folder / picture[2]).read_bytes()).decode()
        return f'<img alt="{html.escape(picture[1])}" src="data:image/png;base64,{data}">'
    if heading := re.fullmatch(r"(#+) (.*)", block):
        return f"<h{len(heading[1])}>{_inline(heading[2])}</h{len(heading[1])}>"
    if block.startswith("|"):
        return _html_table(block.splitlines())
    kind = ' class="rejected"' if rejected and block.startswith("**Rejected") else ""
    return f"<p{kind}>{_inline(block)}</p>"


def _html_table(lines: Sequence[str]) -> str:
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in cells[0])
    rows = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in cells[2:])
    return f"<table>{f'<tr>{head}</tr>' if any(cells[0]) else ''}{rows}</table>"


def _inline(text: str) -> str:
    escaped = html.escape(text.replace("&lt;", "<").replace("\\|", "|").replace("\\\\", "\\"), quote=False)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", re.sub(r"`(.+?)`", r"<code>\1</code>", escaped))
