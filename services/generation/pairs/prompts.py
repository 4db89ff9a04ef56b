"""Prompt texts: pure functions from a task spec to what the teacher reads.

A prompt is a few of the label's exemplars, then the instruction itself, ending in the opening quote of the sentence
that the teacher shall write. The plain form is that text. In the chat form a question ends before the instruction's
last line, which the assistant begins and the teacher goes on with.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from services.generation.decoding.base import Turn
from services.generation.pairs.tasks import GENRE, TOPIC, X1, Label, TaskSpec, placeholder

Form = Literal["auto", "plain", "chat"]
"""`auto`: the chat form for second sentences if the teacher's tokenizer brings a chat template, else the plain one."""


class Exchange(NamedTuple):
    """One instruction, filled in, and the sentence that answers it; in a prompt's last place it is still to write."""

    instruction: str
    sentence: str = ""
    given: str = ""
    """The pair's other sentence, which the instruction was filled in with, if it was."""


class Prompt(NamedTuple):
    """What the teacher reads: exemplars, then the instruction to follow, without a sentence."""

    exchanges: tuple[Exchange, ...]

    @property
    def text(self) -> str:
        """The plain form."""
        *exemplars, last = self.exchanges
        return "".join(f'{one.instruction}{one.sentence}"\n\n' for one in exemplars) + last.instruction

    @property
    def turns(self) -> list[Turn]:
        """The chat form; the last turn is to be gone on with."""
        turns: list[Turn] = []
        for one in self.exchanges:
            question, _, opening = one.instruction.rpartition("\n")
            turns.append({"role": "user", "content": question or opening})
            answer = opening if question else '"'
            closing = f'{one.sentence}"' if one.sentence else ""
            turns.append({"role": "assistant", "content": answer + closing})
        return turns

    @property
    def exemplars(self) -> tuple[Exchange, ...]:
        """All exchanges but the last, which is still to answer."""
        return self.exchanges[:-1]

    @property
    def bare_instruction(self) -> str:
        """The instruction to follow, without the given sentence in it."""
        last = self.exchanges[-1]
        return last.instruction.replace(in_quotes(last.given), "") if last.given else last.instruction


def lanes_for(
    task: TaskSpec, label: str, given: str, exemplars: Sequence[int] = (), neighbour: str | None = None
) -> tuple[Prompt, ...]:
    """The prompts of one sample: the label's own first, then its counter-labels', all around the same given sentence,
    then the label's own around the given passage's neighbour, if there is one.

    `exemplars` are places in the labels' pools; those that a pool hasn't got are left out.
    """
    specs = [task.labels[name] for name in (label, *task.labels[label].counter_labels)]
    asked = [(spec, given) for spec in specs] + ([(specs[0], neighbour)] if neighbour else [])
    return tuple(Prompt((*_exemplars(spec, exemplars), _exchange(spec, text))) for spec, text in asked)


def sentence1_prompt(task: TaskSpec, label: str, exemplars: Sequence[int] = ()) -> Prompt:
    """Ask for sentence 1 as the paper does: a label's instruction, cut before it."""
    spec = task.labels[label]
    # An exemplar goes on to its second sentence, as the whole instruction would.
    return Prompt((*_exemplars(spec, exemplars), Exchange(spec.instruction.partition(X1)[0])))


def topical_prompt(task: TaskSpec, topic: str, genre: str, exemplars: Sequence[int] = ()) -> Prompt:
    """Ask for sentence 1 by the task's own `sentence1` instruction."""
    spec = task.sentence1
    assert spec is not None
    pool = [spec.exemplars[place] for place in exemplars if place < len(spec.exemplars)]

    def filled(topic: str, genre: str) -> str:
        return spec.instruction.replace(TOPIC, topic).replace(GENRE, genre)

    exchanges = [Exchange(filled(one.topic, one.genre), in_quotes(one.sentence)) for one in pool]
    return Prompt((*exchanges, Exchange(filled(topic, genre))))


def _exemplars(label: Label, places: Sequence[int]) -> list[Exchange]:
    pool = [label.exemplars[place] for place in places if place < len(label.exemplars)]
    turn = -1 if label.writes_query else 1  # a query's exemplar gives its second sentence
    return [_exchange(label, *one[::turn]) for one in pool]


def _exchange(label: Label, given: str, sentence: str = "") -> Exchange:
    hole = placeholder(label.instruction) or X1
    return Exchange(label.instruction.replace(hole, in_quotes(given)), sentence, given)


def in_quotes(sentence: str) -> str:
    """A sentence as it stands in a prompt: double quotes in it, which would end it, become single ones."""
    return sentence.replace('"', "'")
