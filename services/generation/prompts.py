"""Prompt texts: pure functions from a task spec to what the teacher reads.

A prompt is the label's exemplars, each written out as the instruction with both sentences, then the instruction itself,
ending in the opening quote of the sentence that the teacher shall write.
"""

from services.generation.tasks import X1, Label, TaskSpec


def lanes_for_sentence2(task: TaskSpec, label: str, sentence1: str, exemplars: int) -> tuple[str, ...]:
    """The prompts of one sample: the label's own first, then its counter-labels', all around the same `sentence1`."""
    names = (label, *task.labels[label].counter_labels)
    return tuple(sentence2_prompt(task.labels[name], sentence1, exemplars) for name in names)


def sentence2_prompt(label: Label, sentence1: str, exemplars: int) -> str:
    """Ask for sentence 2 to a given sentence 1."""
    return _shown(label, exemplars) + label.instruction.replace(X1, sentence1)


def sentence1_prompt(label: Label, exemplars: int) -> str:
    """Ask for sentence 1: the same prompt cut before it (the paper's x1 step)."""
    return _shown(label, exemplars) + label.instruction.partition(X1)[0]


def _shown(label: Label, exemplars: int) -> str:
    return "".join(
        f'{label.instruction.replace(X1, sentence1)}{sentence2}"\n\n'
        for sentence1, sentence2 in label.exemplars[:exemplars]
    )
