"""What a person reads of a version: `README.md` (the model card), `report/report.md` and `report/report.html`."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markdown_it import MarkdownIt

from services.trainer.dataset.store import Origin
from services.trainer.evaluation.sts import Row
from services.trainer.publishing.candidate import Candidate, StudentScores
from services.trainer.publishing.report import plots
from shared import teacher
from shared.manifest import Card
from shared.settings import MADE_STUDENTS

WORST, MOST_ORIGINS, MOST_LABELS = 12, 20, 5
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, pairwright]
"""

USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
model.similarity(model.encode(["A man plays the guitar."]), model.encode(["Someone makes music."]))
```"""

ESTIMATE = (
    "How well a student ranks pairs of the dataset's texts as a language model does, given how many letters they share:"
    " partial Spearman x 100 with its 95 % interval. No human label was used."
)
REJECTED, REJECTED_HTML = "**Not published:**", "<strong>Not published:</strong>"
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1f23}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .75rem;border-bottom:1px solid #d8dee4;
text-align:left;vertical-align:top}th:empty{display:none}
img{max-width:100%}code{background:#f3f4f6;padding:.1rem .3rem;border-radius:.2rem}
.rejected{background:#fdecea;border-left:4px solid #c0392b;padding:.5rem 1rem}"""


def write_report(folder: Path, candidate: Candidate, card: Card, after: StudentScores, rejection: str | None) -> None:
    """Write the model card, and both forms of the report with its pictures, into a staged version."""
    target = folder / "report"
    target.mkdir()
    disagreement = None
    if candidate.split is not None and after.cosines is not None:
        disagreement = _find_disagreements(candidate.split.eval_pairs, after.cosines, WORST)
    pictures = _draw(candidate, card, after, disagreement, target)
    text = _report(candidate, card, rejection, disagreement, pictures)
    (target / "report.md").write_text(text, encoding="utf-8")
    (target / "report.html").write_text(_html(text, target), encoding="utf-8")
    (folder / "README.md").write_text(_head(candidate) + _model_card(card, candidate.origins), encoding="utf-8")


@dataclass(frozen=True)
class Disagreement:
    """Where a student disagrees with the generated labels: each pair's label, and what its similarity looks like."""

    labels: list[str]
    """Ascending."""
    counts: npt.NDArray[np.int64]
    """[label, predicted label]."""
    worst: list[tuple[Row, float, str]]
    """The pairs that are furthest off, the worst first: row, cosine, predicted label."""


def _find_disagreements(dev: Sequence[Row], cosines: npt.NDArray[np.float64], most: int) -> Disagreement:
    """Rank the pairs by cosine and give out the labels again, each as often as it occurs."""
    scores = np.array([score for _, _, score in dev])
    values = np.unique(scores)
    edges = (values[:-1] + values[1:]) / 2
    if len(values) > MOST_LABELS:  # equal portions
        edges = np.unique(np.quantile(scores, np.linspace(0, 1, MOST_LABELS + 1)))[1:-1]
    label = np.searchsorted(edges, scores, side="right")
    ranges = [(scores[label == number].min(), scores[label == number].max()) for number in range(label.max() + 1)]
    names = [f"{low:g}" if low == high else f"{low:.2f} to {high:.2f}" for low, high in ranges]
    order = np.argsort(cosines, kind="stable")
    predicted = np.empty_like(label)
    predicted[order] = np.sort(label)
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (label, predicted), 1)
    # Off by how many labels; among equals, by how far the cosine is from its label's middle.
    middles = np.array([np.median(cosines[label == number]) for number in range(len(names))])
    distance = np.abs(label - predicted) * 10 + np.abs(cosines - middles[label])
    worst = [index for index in np.argsort(-distance, kind="stable")[:most] if label[index] != predicted[index]]
    return Disagreement(names, counts, [(dev[i], float(cosines[i]), names[predicted[i]]) for i in worst])


def _draw(
    candidate: Candidate, card: Card, after: StudentScores, disagreement: Disagreement | None, target: Path
) -> dict[str, str]:
    """Draw what there is to draw; title to file name."""
    pictures: dict[str, str] = {}
    history = candidate.outcome.history if candidate.outcome else []
    if any("loss" in point for point in history):
        plots.loss(history, target / "loss.png")
        pictures["Training loss"] = "loss.png"
    if any("dev" in point for point in history):
        on_generated = (card.selected_by or "").startswith("generated")
        before = card.scores.get("dev_before") if on_generated else None
        plots.dev_score(history, before, card.training.get("best_step"), target / "dev.png")
        pictures[f"Score over the steps, on {card.selected_by}"] = "dev.png"
    if disagreement is not None and candidate.split is not None and after.cosines is not None:
        plots.histograms(candidate.split.dev, candidate.before.cosines, after.cosines, target / "histograms.png")
        pictures["Cosines of the generated dev pairs, by label"] = "histograms.png"
        plots.confusion(disagreement.labels, disagreement.counts, target / "confusion.png")
        pictures["Generated labels and what the student makes of them"] = "confusion.png"
    if card.human_scores:
        plots.human(card.human_scores["before"], card.human_scores["after"], target / "sts.png")
        pictures["Human-scored sets"] = "sts.png"
    return pictures


def _report(
    candidate: Candidate, card: Card, rejection: str | None, disagreement: Disagreement | None, pictures: dict[str, str]
) -> str:
    parts = [f"# Round {card.round} of `{card.dataset}`"]
    if rejection is not None:
        parts.append(f"{REJECTED} {rejection}.")
    parts += [_table(("", ""), _facts(card)), *_scores(card)]
    parts += [f"## {title}\n\n![{title}]({name})" for title, name in pictures.items()]
    if disagreement is not None and disagreement.worst:
        rows = [
            (_escape(one), _escape(other), f"{score:g}", f"{cosine:.2f}", predicted)
            for (one, other, score), cosine, predicted in disagreement.worst
        ]
        head = ("sentence 1", "sentence 2", "label", "cosine", "looks like")
        parts.append("## Pairs that are furthest off\n\nFaults of the student, or of the teacher that wrote the label.")
        parts.append(_table(head, rows))
    if candidate.origins:
        parts += ["## Where the pairs come from", _origins(candidate.origins)]
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
    if card.split and card.pairs:
        split = card.split
        facts.append(("training rows", f"{split['train']}, of which {split['random']} with random partners"))
        facts.append(("held out by sentence1", f"{split['held_out']} pairs, {split['dev']} of them measured"))
        facts.append(("left out", f"{split['left_out']}"))
        facts.append(("pairs by score", ", ".join(f"{name}: {count}" for name, count in split["labels"].items())))
        facts.append(("checkpoint chosen by", card.selected_by or "nothing: the last step was kept"))
    if card.recipe:
        numbers = (f"{name} {value}" for name, value in card.recipe.items() if value is not None)
        facts.append(("recipe", ", ".join(numbers)))
    training = card.training
    if "seconds" in training:
        speed = f", {training['pairs_s']} rows/s" if "pairs_s" in training else ""
        facts.append(("training took", f"{training['seconds']:.1f} s{speed}, at most {training['peak_mib']} MiB"))
        if training.get("resumed_at") is not None:
            facts.append(("resumed", f"at step {training['resumed_at']}, after a death"))
    return facts + _preparation(training)


def _preparation(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was done before training."""
    facts = []
    if count := training.get("teacher_embeddings"):
        facts.append(("before it", f"{training['teacher_embeddings_s']:.1f} s for {count} teacher embeddings"))
    if count := training.get("corpus_terms"):
        facts.append(("terms of the corpus", f"from {count} passages, in {training['corpus_terms_s']:.1f} s"))
    if count := training.get("query_rows"):
        facts.append(("queries learnt", f"{count} with mined negatives, in {training['query_s']:.1f} s"))
    if training.get("short_texts"):
        facts.append(("corpus", f"{training['passages']} short texts, which nothing asks for"))
    elif "passages" in training:
        kind = "titles of documents" if training["titles"] else "queries that the teacher wrote"
        held_out = f"{training['queries']} {kind}, {training['held_out']} of them held out"
        facts.append(("corpus", f"{training['passages']} passages; {held_out}"))
    return facts


def _scores(card: Card) -> list[str]:
    """Two tables, because the two kinds of scores are never compared."""
    parts = []
    if card.estimates:
        parts += ["## Label-free estimate", ESTIMATE, _table(("student", "kind", "estimate"), _estimates(card))]
    if "reason" in card.gate:
        parts.append(f"Gate: {card.gate['reason']}.")
    if card.gate.get("share", 1.0) < 1:
        parts.append(f"The version is half-way: {card.gate['share']:g} of its weights is what was trained.")
    if card.scores:
        table = _table(("before", "after"), [[_number(card.scores.get(name)) for name in ("dev_before", "dev_after")]])
        parts += ["## On generated dev pairs", "Spearman x 100. No human label was used.", table]
    if card.human_scores:
        before, after = card.human_scores["before"], card.human_scores["after"]
        rows = [(_escape(name), _number(before.get(name)), _number(after[name])) for name in after]
        parts += ["## On human-scored pairs", "Spearman x 100.", _table(("set", "before", "after"), rows)]
    return parts


def _estimates(card: Card) -> list[tuple[str, str, str]]:
    rows = [(student, kind, one) for student, kinds in card.estimates.items() for kind, one in kinds.items()]
    return [
        (student.replace("candidate", "this version"), kind, f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})")
        for student, kind, one in rows
    ]


def _origins(origins: Sequence[Origin]) -> str:
    rows = [
        (*map(_escape, (teacher.public_name(one.teacher), one.task, one.label)), str(one.pairs))
        for one in origins[:MOST_ORIGINS]
    ]
    if len(origins) > MOST_ORIGINS:
        rest = origins[MOST_ORIGINS:]
        rows.append((f"{len(rest)} more", "", "", str(sum(origin.pairs for origin in rest))))
    return _table(("teacher", "task", "label", "pairs"), rows)


def _head(candidate: Candidate) -> str:
    """What the hub reads of a card: the base, where it is on the hub, and the licence, where we know it."""
    made = candidate.round.base in MADE_STUDENTS
    base = teacher.public_name(candidate.teacher) if made else candidate.round.base
    lines = [f"base_model: {base}"] if HUB_ID.fullmatch(base) and not Path(base).exists() else []
    lines += [f"license: {teacher.LICENCE}"] if made and candidate.teacher == "default" else []
    return "\n".join([HEAD.rstrip(), *lines, "---\n\n"])


def _model_card(card: Card, origins: Sequence[Origin]) -> str:
    what = "The base student, untrained."
    if card.round:
        by_human = (card.selected_by or "").startswith("human")
        labels = "A human-scored set chose the checkpoint." if by_human else "No human label was used."
        source = "generated sentence pairs" if card.pairs else "a corpus, without a pair"
        what = f"A student fine-tuned on {source}. {labels}"
    parts = ["# A sentence encoder made by Pairwright", what, USE, _table(("", ""), _facts(card)), *_scores(card)]
    if origins:
        about = "Every pair names its teacher; what came from elsewhere was imported."
        parts += ["## The data", about, _origins(origins)]
    parts.append("Plots and the worst pairs: `report/report.html`. Licences of base and teacher apply.")
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Sentences are anybody's text: nothing in them may begin markup. `_table` escapes what ends a cell."""
    return re.sub(r"([\\`*_~\[\]<>&])", r"\\\1", text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _html(text: str, folder: Path) -> str:
    """The report in one file that opens anywhere, with the pictures inside it. HTML in its text stays text."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", lambda *call: _inline_picture(folder, *call))
    body = markdown.render(text).replace(f"<p>{REJECTED_HTML}", f'<p class="rejected">{REJECTED_HTML}')
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Report</title><style>{STYLE}</style>\n{body}'


def _inline_picture(folder: Path, renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    data = base64.b64encode((folder / token.attrs["src"]).read_bytes()).decode()
    token.attrs |= {"src": f"data:image/png;base64,{data}", "alt": token.content}
    return str(renderer.renderToken(tokens, index, options, env))
