"""The dataset card that is written beside a file of pairs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.generation.jobs.progress import JobProgress
from services.generation.pairs.languages import detect
from services.generation.pairs.plan import ResolvedPlan
from shared import __version__
from shared.teacher import LICENCE, public_name

EXAMPLES_PER_LABEL = 2


def dataset_card(
    plan: ResolvedPlan,
    progress: JobProgress,
    teacher: str,
    files: Sequence[str],
    pairs: Sequence[Mapping[str, Any]],
    given: int | None = None,
) -> str:
    """A card in the hub's form: how the pairs were made, how many there are, what was thrown away, a few of them.

    `given`: how many sentences or passages were given, where the plan doesn't hold them.
    """
    task = plan.task
    decoding = ", ".join(f"{name} {value}" for name, value in plan.decoding.model_dump().items())
    language = detect([pair["sentence2"] for pair in pairs])
    head = [f"language: {language}"] if language else []
    sections = [
        "---",
        *head,
        *([f"license: {LICENCE}"] if teacher == "default" else []),
        "task_categories: [sentence-similarity]",
        "tags: [pairwright, synthetic, dino]",
        f"configs: [{{config_name: default, data_files: {json.dumps(files[-1])}}}]",
        f"---\n# Sentence pairs for the task `{task.task_name}`, written by a language model\n",
        "Every pair was written by the teacher below from an instruction a label, with self-debiasing decoding (DINO, "
        "Schick & Schütze 2021). No person wrote or labelled any of them: labels are wrong now and then. The licence "
        "of the teacher may govern what is made with it.\n",
        "| | |\n| --- | --- |",
        f"| teacher | `{public_name(teacher)}` |",
        f"| made by | Pairwright {__version__}, preset `{plan.preset}`, prompt form `{plan.prompt_form}` |",
        f"| pairs | {progress.accepted.total()} of {progress.requested} asked for ({progress.outcome}) |",
        _source(plan, len(plan.inputs) if plan.inputs else given),
        f"| exemplars in a prompt | {plan.exemplars} |",
        f"| decoding | {decoding} |",
        f"| seed | {plan.seed} |",
        "\n## Labels\n",
        "| label | score | counter-labels | pairs | instruction |\n| --- | ---: | --- | ---: | --- |",
        *(
            f"| {name} | {label.score:g} | {', '.join(label.counter_labels) or '-'} | {progress.accepted[name]} | "
            f"{_cell(label.instruction)} |"
            for name, label in task.labels.items()
        ),
        "\n## Thrown away\n",
        f"{progress.rejected.total()} of the sampled sentences, by reason: "
        + (", ".join(f"{reason} {count}" for reason, count in progress.rejected.most_common()) or "none"),
        "\n## Examples\n",
        "| label | sentence1 | sentence2 |\n| --- | --- | --- |",
        *(
            f"| {pair['label']} | {_cell(pair['sentence1'])} | {_cell(pair['sentence2'])} |"
            for name in task.labels
            for pair in [pair for pair in pairs if pair["label"] == name][:EXAMPLES_PER_LABEL]
        ),
        "\n## Files\n",
        *(f"- `{file}`{_description(file)}" for file in files),
    ]
    return "\n".join(sections) + "\n"


def _source(plan: ResolvedPlan, given: int | None) -> str:
    if plan.task.writes_queries:
        return f"| passages | {f'{given} given' if given else f'{plan.queries} of the dataset'} |"
    return f"| first sentences | {f'{given} given' if given else 'written by the teacher'} |"


def _description(file: str) -> str:
    if ".postprocessed" in file:
        return ": scores smoothed (0.8 y + 0.1), two random pairs of score 0 a sentence1, as the original's script"
    if file.endswith(".parquet"):
        return ": Parquet with sentence1, sentence2, score, label, task, teacher, seed"
    return ": JSON Lines with sentence1, sentence2, score, label"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ⏎ ")
