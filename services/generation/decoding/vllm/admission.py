"""Which sample enters the engine next: clients take turns, small samples fill gaps. Knows nothing of vLLM."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from services.generation.decoding.base import Decoding, PromptTooLong, Sample
from services.generation.decoding.tokenizer import check_length

LOOKAHEAD = 8
"""How far down a client's queue to look for a sample that fits where the first doesn't."""
MAX_SKIPS = 16
"""A sample that another client's samples have passed this often is let in before all others."""


@dataclass(eq=False)
class SampleState:
    """A sample that waits for the engine or decodes in it."""

    sample: Sample
    prompts: Sequence[Sequence[int]]
    """Token ids, lane 0 first."""
    future: Future[Any] = field(default_factory=Future)
    """Of a `Completion`, or of the text's log-likelihoods."""
    text: tuple[int, ...] = ()
    """Token ids that are not drawn but given, one a step, because their likelihoods are asked for."""
    skips: int = 0
    """How often another client's sample entered before it because it did not fit."""
    replays: int = 0
    name: str = ""
    """Of its current try; a replay has a name of its own, so that late rows of the void one don't mix in."""
    request_ids: list[str] = field(default_factory=list)
    answers: dict[str, tuple[tuple[int, ...], str | None, int | str | None]] = field(default_factory=dict)
    """By the request id of a lane that has ended: its tokens, vLLM's finish reason and stop reason."""
    tokens: tuple[int, ...] = ()
    log_likelihoods: tuple[float, ...] = ()

    @classmethod
    def of_text(cls, prompt: tuple[int, ...], text: tuple[int, ...], client: str, future: Future[Any]) -> "SampleState":
        """A text whose likelihood after a prompt is asked for: a sample of one lane, whose tokens are given."""
        decoding = Decoding(decay_constant=0.0).model_copy(update={"max_tokens": len(text)})
        return cls(Sample((), seed=0, decoding=decoding, client=client), [prompt], future, text)

    def __post_init__(self) -> None:
        self.lanes = len(self.prompts)
        self.prompt_tokens = sum(map(len, self.prompts))


@dataclass(frozen=True)
class Limits:
    """What vLLM can hold at one time."""

    lanes: int
    step_tokens: int
    sequence_tokens: int
    block_tokens: int
    blocks: int

    def blocks_of(self, state: SampleState) -> int:
        """Cache blocks for the whole life of all lanes, as if none shared its prefix."""
        output = state.sample.decoding.max_tokens + 1
        return sum(math.ceil((len(prompt) + output) / self.block_tokens) for prompt in state.prompts)

    def fits(self, state: SampleState, lanes: int, step_tokens: int, blocks: int) -> bool:
        """Whether a sample can enter whole while so many lanes, tokens of the next step and blocks are in use."""
        return (
            lanes + state.lanes <= self.lanes
            and step_tokens + state.prompt_tokens <= self.step_tokens
            and blocks + self.blocks_of(state) <= self.blocks
        )

    def check(self, state: SampleState) -> None:
        """Raises `PromptTooLong` for a sample that could never enter whole."""
        check_length(state.prompts, state.sample.decoding, self.sequence_tokens)
        if not self.fits(state, 0, 0, 0):
            raise PromptTooLong(
                f"{state.lanes} prompts of {state.prompt_tokens} tokens exceed one step of the engine "
                f"({self.lanes} prompts, {self.step_tokens} tokens, {self.blocks} cache blocks)"
            )


class AdmissionQueue:
    """Waiting samples. Clients share the lanes equally while they wait; within a client, first come, first served."""

    def __init__(self) -> None:
        self._replays: deque[SampleState] = deque()
        # By client, while it has samples here.
        self._queues: dict[str, deque[SampleState]] = {}
        self._admitted_lanes: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._replays or self._queues)

    def add(self, state: SampleState) -> None:
        """Put a sample at the end of its client's queue."""
        client = state.sample.client
        if client not in self._queues:
            self._queues[client] = deque()
            # A newcomer starts level with the others: neither behind for what it had before nor owed what it missed.
            self._admitted_lanes[client] = min(self._admitted_lanes.values(), default=0)
        self._queues[client].append(state)

    def add_replay(self, state: SampleState) -> None:
        """Put a sample that was in already before all others."""
        self._replays.append(state)

    def remove(self, state: SampleState) -> None:
        """Take a sample out of the queue that holds it."""
        if state in self._replays:
            self._replays.remove(state)
            return
        client = state.sample.client
        self._queues[client].remove(state)
        self._admitted_lanes[client] += state.lanes
        if not self._queues[client]:
            del self._queues[client], self._admitted_lanes[client]

    def pop(self, fits: Callable[[SampleState], bool]) -> SampleState | None:
        """Take out the next sample that fits: replays first, then the client that had the fewest lanes."""
        skipped: list[SampleState] = []
        by_priority = [self._queues[client] for client in sorted(self._queues, key=self._admitted_lanes.__getitem__)]
        for queue in [self._replays, *by_priority] if self._replays else by_priority:
            first = queue[0]
            is_overdue = first.skips >= MAX_SKIPS
            candidate = next(filter(fits, islice(queue, 1 if is_overdue else LOOKAHEAD)), None)
            if candidate is not None:
                self.remove(candidate)
                for state in skipped:
                    state.skips += 1
                return candidate
            if is_overdue:
                return None
            skipped.append(first)
        return None
