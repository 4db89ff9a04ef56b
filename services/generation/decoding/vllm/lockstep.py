"""Samples into vLLM and out again, whole: the lanes of a sample start in the same step and end with the same tokens.

Prevention: a sample is admitted between two steps, and only when all its lanes surely fit into the next step (requests,
tokens, cache blocks for their whole life), so vLLM never has to split, chunk or preempt them.
Detection: should it happen all the same, the processor poisons the lanes, or they come back unequal; and no sample is
let out whose tokens are not, one by one, those that the processor drew from all its lanes together (its receipt).
Recovery: such a sample is void and replayed with its seed, so it yields the sentence it would have had; never a bias
towards sentences that survived. (Measured on provoked faults: after replay identical to the undisturbed run.)
"""

import itertools
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from services.generation.decoding.base import Decoding, EngineDead, PromptTooLong
from services.generation.decoding.vllm.admission import Line
from services.generation.decoding.vllm.processor import ARGUMENT, Lane, SampleTrace


@dataclass(frozen=True)
class Limits:
    """What vLLM can hold at one time."""

    lanes: int
    step_tokens: int
    sequence_tokens: int
    block_tokens: int
    blocks: int


@dataclass(eq=False)
class LaneGroup:
    """A sample on its way: `prompts` are token ids, lane 0 first."""

    prompts: Sequence[Sequence[int]]
    seed: int
    decoding: Decoding
    stop: Sequence[int]
    """Tokens that end the sentence."""
    poison: int
    client: str = ""
    overtaken: int = 0
    """How often a smaller sample entered before it."""
    replays: int = 0
    name: str = ""
    """Of its current try; a replay has a name of its own, so that late rows of the void one don't mix in."""
    request_ids: list[str] = field(default_factory=list)
    answers: dict[str, tuple[tuple[int, ...], str | None, int | str | None]] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()

    @property
    def lanes(self) -> int:
        """How many prompts are decoded for it."""
        return len(self.prompts)


class Lockstep:
    """Feeds a vLLM engine with whole samples. Not thread-safe: it lives in the engine's thread.

    `admit_whole=False` switches prevention off; tests use it to show that detection and recovery hold alone.
    """

    def __init__(self, engine: Any, limits: Limits, admit_whole: bool = True) -> None:
        self._engine = engine
        self.limits = limits
        self._admit_whole = admit_whole
        self._waiting: Line[LaneGroup] = Line()
        self._running: set[LaneGroup] = set()
        self._of_request: dict[str, LaneGroup] = {}
        self._prefix = uuid.uuid4().hex[:8]  # receipts of several engines in one process must not mix
        self._names = itertools.count()
        self._dropped: list[str] = []
        """Names of samples that left in mid-sentence: their receipts are void."""
        self._lanes = 0
        self._blocks = 0
        self.max_replays = 8
        """A sample that needs more is not bad luck: the engine is then declared dead."""
        self.replays = 0
        """Samples that fell out of lockstep and were made again; 0 as long as admission control does its work."""
        self.steps = 0
        self.tokens_drawn = 0
        """Of finished samples, whatever their number of lanes."""
        self.samples_taken = 0
        """Samples that were ever asked for."""

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not self._running

    @property
    def lanes_running(self) -> int:
        """Lanes that decode now."""
        return self._lanes

    def add(self, group: LaneGroup) -> None:
        """Take a sample. Raises `PromptTooLong` for one that could never be admitted whole."""
        longest = max(map(len, group.prompts)) + group.decoding.max_tokens
        if longest > self.limits.sequence_tokens:
            raise PromptTooLong(
                f"a prompt of {longest - group.decoding.max_tokens} tokens with {group.decoding.max_tokens} to write "
                f"exceeds the engine's {self.limits.sequence_tokens}"
            )
        # While any lanes run they take one token each; alone, a sample must fit into one step.
        tokens, room = sum(map(len, group.prompts)), self.limits.step_tokens
        if group.lanes > self.limits.lanes or tokens > room or self._blocks_of(group) > self.limits.blocks:
            raise PromptTooLong(
                f"{group.lanes} prompts of {tokens} tokens exceed one step of the engine "
                f"({self.limits.lanes} prompts, {room} tokens, {self.limits.blocks} cache blocks)"
            )
        self._waiting.add(group)
        self.samples_taken += 1

    def cancel(self, group: LaneGroup) -> None:
        """Forget a sample. All its lanes leave between the same two steps."""
        if group in self._running:
            self._engine.abort_request(group.request_ids)
            self._leave(group)
            self._dropped.append(group.name)
        else:
            self._waiting.remove(group)

    def step(self) -> list[LaneGroup]:
        """Admit what fits, let the engine make one step, return the finished samples."""
        self._admit()
        ended = []
        for output in self._engine.step():
            group = self._of_request.get(output.request_id)
            if group is None or not output.finished:
                continue
            answer = output.outputs[0]
            group.answers[output.request_id] = (tuple(answer.token_ids), answer.finish_reason, answer.stop_reason)
            if len(group.answers) == group.lanes:
                ended.append(group)
        self.steps += 1
        receipts = self._receipts(ended)
        return [group for group in ended if self._settle(group, receipts.get(group.name))]

    def _receipts(self, ended: list[LaneGroup]) -> dict[str, SampleTrace]:
        """What the processor drew for the ended samples, from the worker that has drawn."""
        if not ended:
            return {}
        names, dropped, self._dropped = [group.name for group in ended], self._dropped, []
        found: dict[str, SampleTrace] = {}
        for of_worker in self._engine.collective_rpc("pairwright_receipts", args=(names, dropped)):
            found |= of_worker
        return found

    def _admit(self) -> None:
        """Let samples in as long as they fit."""
        room = self.limits.step_tokens - self._lanes

        def fits(group: LaneGroup) -> bool:
            return not self._admit_whole or (
                self._lanes + group.lanes <= self.limits.lanes
                and sum(map(len, group.prompts)) <= room
                and self._blocks + self._blocks_of(group) <= self.limits.blocks
            )

        while (group := self._waiting.next(fits)) is not None:
            room -= sum(map(len, group.prompts))
            self._enter(group)

    def _enter(self, group: LaneGroup) -> None:
        name = group.name = f"sample-{self._prefix}-{next(self._names)}"
        group.request_ids = [f"{name}-lane-{lane}" for lane in range(group.lanes)]
        group.answers = {}
        self._running.add(group)
        self._lanes += group.lanes
        self._blocks += self._blocks_of(group)
        for lane, (request_id, prompt) in enumerate(zip(group.request_ids, group.prompts, strict=True)):
            self._of_request[request_id] = group
            self._engine.add_request(request_id, {"prompt_token_ids": list(prompt)}, _params(group, name, lane))

    def _leave(self, group: LaneGroup) -> None:
        self._running.discard(group)
        self._lanes -= group.lanes
        self._blocks -= self._blocks_of(group)
        for request_id in group.request_ids:
            self._of_request.pop(request_id, None)

    def _settle(self, group: LaneGroup, receipt: SampleTrace | None) -> bool:
        """All lanes have ended. True if they agree with each other and with the receipt; otherwise the sample is void
        and waits for its replay."""
        self._leave(group)
        tokens, reason, stop = group.answers[group.request_ids[0]]
        in_lockstep = all(answer == (tokens, reason, stop) for answer in group.answers.values())
        poisoned = stop == group.poison or group.poison in tokens
        if in_lockstep and not poisoned and receipt == SampleTrace(group.lanes, tokens):
            group.tokens = tokens
            self.tokens_drawn += len(tokens)
            return True
        self.replays += 1
        group.replays += 1
        if group.replays > self.max_replays:
            raise EngineDead(f"a sample fell out of lockstep {group.replays} times; its tokens would be wrong")
        self._waiting.add_again(group)
        return False

    def _blocks_of(self, group: LaneGroup) -> int:
        """Cache blocks for the whole life of all lanes, shared prefixes not counted in our favour."""
        longest_output = group.decoding.max_tokens + 1
        return sum(math.ceil((len(prompt) + longest_output) / self.limits.block_tokens) for prompt in group.prompts)


def _params(group: LaneGroup, name: str, lane: int) -> SamplingParams:
    decoding = group.decoding
    arguments = Lane(
        sample=name,
        lane=lane,
        lanes=group.lanes,
        seed=group.seed,
        poison=group.poison,
        decay_constant=decoding.decay_constant,
        floor=decoding.floor,
        temperature=decoding.temperature,
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        line_breaks=decoding.line_breaks == "reject",
    )
    return SamplingParams(
        temperature=0.0,
        max_tokens=decoding.max_tokens,
        ignore_eos=True,
        stop_token_ids=[*group.stop, group.poison],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={ARGUMENT: arguments._asdict()},
    )
