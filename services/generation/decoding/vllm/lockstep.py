"""Samples into vLLM and out again, whole: the lanes of a sample start in the same step and end with the same tokens.

Prevention: a sample is admitted between two steps, and only when all its lanes surely fit into the next step (requests,
tokens, cache blocks for their whole life), so vLLM never has to split, chunk or preempt them.
Detection: otherwise the processor aborts the lanes, or they come back unequal, or their tokens are not those that the
processor drew from all lanes together (the sample's trace).
Recovery: such a sample is replayed with its seed and yields the sentence it would have had (measured): no bias.
"""

import itertools
import uuid
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from services.generation.decoding.base import EngineDead
from services.generation.decoding.tokenizer import Vocabulary
from services.generation.decoding.vllm.admission import AdmissionQueue, Limits, SampleState
from services.generation.decoding.vllm.processor import ARGUMENT, Lane, SampleTrace


class Lockstep:
    """Feeds a vLLM engine with whole samples. Not thread-safe: it lives in the engine's thread."""

    def __init__(self, engine: Any, limits: Limits, vocabulary: Vocabulary) -> None:
        self._engine, self._vocabulary, self.limits = engine, vocabulary, limits
        self._waiting = AdmissionQueue()
        self._running: set[SampleState] = set()
        self._by_request: dict[str, SampleState] = {}
        self._prefix = uuid.uuid4().hex[:8]  # traces of several engines in one process must not mix
        self._names = itertools.count()
        self._dropped: list[str] = []
        """Names of samples that left in mid-sentence: their traces are void."""
        self._blocks = 0
        """Cache blocks that running samples may need."""
        self.max_replays = 8
        """A sample that needs more is not bad luck: the engine is then declared dead."""
        self.lanes_running = self.replays = self.tokens_drawn = self.samples_taken = 0  # three as in `Engine`

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def add(self, state: SampleState) -> None:
        """Take a sample. Raises `PromptTooLong` for one that could never be admitted whole."""
        self.limits.check(state)
        self._waiting.add(state)
        self.samples_taken += 1

    def cancel(self, state: SampleState) -> None:
        """Forget a sample. All its lanes leave between the same two steps."""
        if state in self._running:
            self._engine.abort_request(state.request_ids)
            self._leave(state)
            self._dropped.append(state.name)
        else:
            self._waiting.remove(state)

    def step(self) -> list[SampleState]:
        """Admit what fits, let the engine make one step, return the finished samples."""
        self._admit()
        ended = []
        for output in self._engine.step():
            state = self._by_request.get(output.request_id)
            if state is None or not output.finished:
                continue
            answer = output.outputs[0]
            state.answers[output.request_id] = (tuple(answer.token_ids), answer.finish_reason, answer.stop_reason)
            if len(state.answers) == state.lanes:
                ended.append(state)
        if not ended:
            return []
        names, dropped, self._dropped = [state.name for state in ended], self._dropped, []
        by_worker = self._engine.collective_rpc("pairwright_sample_traces", args=(names, dropped))
        traces = {name: trace for traces in by_worker for name, trace in traces.items()}
        return [state for state in ended if self._settle(state, traces.get(state.name))]

    def _admit(self) -> None:
        tokens = self.lanes_running  # each running lane takes one token of the next step

        def fits(state: SampleState) -> bool:
            return self.limits.fits(state, self.lanes_running, tokens, self._blocks)

        while (state := self._waiting.pop(fits)) is not None:
            tokens += state.prompt_tokens
            state.name, state.answers = f"sample-{self._prefix}-{next(self._names)}", {}
            state.request_ids = [f"{state.name}-lane-{lane}" for lane in range(state.lanes)]
            self._running.add(state)
            self.lanes_running += state.lanes
            self._blocks += self.limits.blocks_of(state)
            for lane, (request_id, prompt) in enumerate(zip(state.request_ids, state.prompts, strict=True)):
                self._by_request[request_id] = state
                self._engine.add_request(request_id, {"prompt_token_ids": list(prompt)}, self._params(state, lane))

    def _leave(self, state: SampleState) -> None:
        self._running.discard(state)
        self.lanes_running -= state.lanes
        self._blocks -= self.limits.blocks_of(state)
        for request_id in state.request_ids:
            self._by_request.pop(request_id, None)

    def _settle(self, state: SampleState, trace: SampleTrace | None) -> bool:
        """True if all lanes agree with each other and with the trace; otherwise the sample waits for its replay."""
        self._leave(state)
        tokens, _, stop = state.answers[state.request_ids[0]]
        is_in_lockstep = len(set(state.answers.values())) == 1
        is_aborted = self._vocabulary.abort_token in (stop, *tokens)
        is_traced = trace is not None and (trace.lanes, trace.tokens) == (state.lanes, tokens)
        if trace is not None and is_traced and is_in_lockstep and not is_aborted:
            state.tokens, state.log_likelihoods = tokens, trace.log_likelihoods
            self.tokens_drawn += 0 if state.text else len(tokens)
            return True
        self.replays += 1
        state.replays += 1
        if state.replays > self.max_replays:
            raise EngineDead(f"a sample fell out of lockstep {state.replays} times; its tokens would be wrong")
        self._waiting.add_replay(state)
        return False

    def _params(self, state: SampleState, lane: int) -> SamplingParams:
        decoding, abort = state.sample.decoding, self._vocabulary.abort_token
        arguments = Lane(state.name, lane, state.lanes, state.sample.seed, abort, decoding.model_dump(), state.text)
        return SamplingParams(
            temperature=0.0,
            max_tokens=decoding.max_tokens,
            ignore_eos=True,
            stop_token_ids=[*self._vocabulary.stop_tokens(decoding.line_breaks), abort],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={ARGUMENT: arguments._asdict()},
        )
