"""Self-debiasing as a vLLM logits processor, for both of vLLM's model runners.

Every lane of a sample is a request of its own, with temperature 0. In each step this processor gathers the lanes of
each sample, debiases, draws one token, and leaves that token alone possible in every lane's row; vLLM's argmax must
then return it in all of them, so the lanes stay in lockstep. Rows of a sample whose lanes are not all present, or not
equally long, get the *abort token*, which ends them; the engine then voids the sample and replays it (lockstep.py).

V1 (what CPU builds run) tells the processor of rows by `update_state`; V2 (what GPUs run) by slots and a context. Each
loader refuses the other's class, so one class is both.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as V1Processor
from vllm.v1.sample.logits_processor import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2Processor

from services.generation.decoding.debias import debias, draw, draw_keys
from services.generation.decoding.vllm.batch_invariance import make_batch_invariant

ARGUMENT = "pairwright"
"""The key of a lane's arguments in SamplingParams.extra_args, and of ours in vLLM's additional_config."""


class SampleTrace(NamedTuple):
    """Proof of a sample: the tokens that were drawn for it, each from the debiased distribution of all its lanes.

    Of a given text: its tokens, and the log-likelihood of each.
    """

    lanes: int
    tokens: tuple[int, ...]
    log_likelihoods: tuple[float, ...] = ()


class Step(NamedTuple):
    """What one step gave to several samples, and the place of one of them among these."""

    tokens: torch.Tensor
    log_likelihoods: torch.Tensor | None
    place: int


pending_traces: dict[str, tuple[int, list[Step]]] = {}
"""By sample, until the worker hands it out: its number of lanes and its steps. Their tensors stay on the device:
reading one off a GPU would make the step wait for it."""


class Lane(NamedTuple):
    """One lane's place in its sample, and its sample's `Decoding` as a dict: what `extra_args` carries."""

    sample: str
    lane: int
    lanes: int
    seed: int
    abort_token: int
    decoding: Mapping[str, Any]
    text: Sequence[int] = ()
    """The tokens that are given to it, one a step, instead of drawn ones."""


class Row(NamedTuple):
    """A row of this step's logits that belongs to a lane which has drawn `step` tokens."""

    row: int
    lane: Lane
    step: int


def lane_of(params: Any) -> Lane | None:
    """The lane that a request's sampling parameters describe; None for requests that are not ours."""
    arguments = (params.extra_args or {}).get(ARGUMENT)
    return None if arguments is None else Lane(**arguments)


class SelfDebias(V1Processor, V2Processor):
    """One processor for both runners; which one constructs it shows in the number of arguments."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        # V1: (config, device, pin_memory); V2: (config, request states).
        self._states: Any = rest[0] if len(rest) == 1 else None
        device = rest[0].device if len(rest) == 1 else rest[0]
        roles = vllm_config.additional_config[ARGUMENT]
        self._banned = torch.tensor(roles["banned"], dtype=torch.long, device=device)
        self._line_breaks = torch.tensor(roles["line_breaks"], dtype=torch.long, device=device)
        self._rows: dict[int, tuple[Lane, list[int]]] = {}  # V1: row -> lane and its output tokens, which vLLM extends
        self._slots: dict[int, Lane] = {}  # V2: slot -> lane

    @classmethod
    def validate_params(cls, params: Any) -> None:
        """Refuse what would undo the forced token. Raises ValueError."""
        lane = lane_of(params)
        if lane is None:
            return
        if params.n != 1 or params.temperature != 0.0 or params.seed is not None:
            raise ValueError("a lane needs n=1, temperature=0 and no seed: the processor itself draws")
        if params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty:
            raise ValueError("a lane can't have penalties: the V1 runner applies them after the processor")
        if not 0 <= lane.lane < lane.lanes or lane.abort_token not in (params.stop_token_ids or ()):
            raise ValueError("a lane must lie in its sample and stop at its abort token")

    def is_argmax_invariant(self) -> bool:
        """False: V1 would skip an invariant processor for greedy rows, and all lanes are greedy."""
        return False

    # ---- V1

    def update_state(self, batch_update: Any) -> None:
        """Follow vLLM's removed, added and moved rows, in that order."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _prompt, output in batch_update.added:
            if (lane := lane_of(params)) is None:
                self._rows.pop(row, None)
            else:
                self._rows[row] = (lane, output)
        for source, target, direction in batch_update.moved:
            moved, displaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = displaced

    # ---- V2

    def add_request(self, slot: int, params: Any) -> bool:
        """A request enters a slot, which may hold the lane of one that left."""
        self._slots.pop(slot, None)
        if (lane := lane_of(params)) is not None:
            self._slots[slot] = lane
        return lane is not None

    def apply_staged_writes(self) -> None:
        """Nothing is staged."""

    def _v2_rows(self, logits: torch.Tensor, context: Any) -> list[Row]:
        states, slots, lengths = self._states, context.idx_mapping_np, context.seq_lens_upper_bound_np
        if logits.shape[0] != len(slots):
            raise RuntimeError("speculative decoding gives a request several rows: lanes can't be kept in lockstep")
        rows = []
        for row, slot in enumerate(slots.tolist()):
            lane = self._slots.get(slot)
            # A prompt that is still being read in chunks has a row too; its token is thrown away by vLLM.
            if lane is not None and lengths[row] >= states.prefill_len.np[slot]:
                rows.append(Row(row, lane, int(lengths[row] - states.prompt_len.np[slot])))
        return rows

    # ---- both

    def apply(self, logits: torch.Tensor, *context: Any) -> torch.Tensor:
        """Force one drawn token into every row of every whole sample. logits: [rows, vocabulary], changed in place."""
        v1_rows = [Row(row, lane, len(output)) for row, (lane, output) in self._rows.items()]
        rows = self._v2_rows(logits, context[0]) if context else v1_rows
        if given := [row for row in rows if row.lane.text]:
            self._give(logits, given)
        whole, broken = _samples(row for row in rows if not row.lane.text)
        for samples in whole.values():
            self._force(logits, samples)
        for row in broken:
            logits[row.row] = float("-inf")
            logits[row.row, row.lane.abort_token] = 0.0
        return logits

    def _force(self, logits: torch.Tensor, samples: list[list[Row]]) -> None:
        """Debias, draw and force; all `samples` have the same number of lanes."""
        device = logits.device
        rows = torch.tensor([[row.row for row in sample] for sample in samples]).to(device, non_blocking=True)
        firsts = [sample[0] for sample in samples]

        def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor([first.lane.decoding[name] for first in firsts], dtype=dtype)

        gathered = logits[rows]
        gathered[:, :, self._banned] = float("-inf")
        single_line = [place for place, first in enumerate(firsts) if first.lane.decoding["line_breaks"] == "ban"]
        if len(single_line) == len(firsts):
            gathered[:, :, self._line_breaks] = float("-inf")
        elif single_line:
            places = torch.tensor(single_line).to(device, non_blocking=True)
            gathered[places[:, None, None], torch.arange(rows.shape[1])[:, None], self._line_breaks] = float("-inf")
        probabilities = debias(gathered, column("decay_constant").to(device), column("floor").to(device))
        seeds = torch.tensor([first.lane.seed for first in firsts])
        keys = draw_keys(seeds, torch.tensor([first.step for first in firsts]))
        tokens = draw(probabilities, keys, column("temperature"), column("top_k", torch.int64), column("top_p"))
        for place, first in enumerate(firsts):
            pending_traces.setdefault(first.lane.sample, (rows.shape[1], []))[1].append(Step(tokens, None, place))
        flat = rows.reshape(-1)
        logits[flat] = float("-inf")
        logits[flat, tokens.repeat_interleave(rows.shape[1])] = 0.0

    def _give(self, logits: torch.Tensor, rows: list[Row]) -> None:
        """Note how likely the next token of each row's text is, and force it."""
        device = logits.device
        places = torch.tensor([row.row for row in rows]).to(device, non_blocking=True)
        tokens = torch.tensor([row.lane.text[row.step] for row in rows]).to(device, non_blocking=True)
        own = logits[places].float()
        own -= own.amax(dim=-1, keepdim=True)
        # In float64 for the same reason as in `debias`.
        totals = own.exp().sum(dim=-1, dtype=torch.float64).log()
        log_likelihoods = own.gather(1, tokens[:, None])[:, 0] - totals
        for place, row in enumerate(rows):
            steps = pending_traces.setdefault(row.lane.sample, (1, []))[1]
            steps.append(Step(tokens, log_likelihoods, place))
        logits[places] = float("-inf")
        logits[places, tokens] = 0.0


def _samples(rows: Iterable[Row]) -> tuple[dict[int, list[list[Row]]], list[Row]]:
    """Rows grouped into whole samples, by their number of lanes, lane 0 first; and the rows of broken samples."""
    by_sample: dict[str, list[Row]] = {}
    for row in rows:
        by_sample.setdefault(row.lane.sample, []).append(row)
    whole: dict[int, list[list[Row]]] = {}
    broken: list[Row] = []
    for lanes in by_sample.values():
        lanes.sort(key=lambda row: row.lane.lane)
        complete = [row.lane.lane for row in lanes] == list(range(lanes[0].lane.lanes))
        if complete and len({row.step for row in lanes}) == 1:
            whole.setdefault(len(lanes), []).append(lanes)
        else:
            broken += lanes
    return whole, broken


class LaneWorker:
    """Methods for vLLM's worker, in whichever process it runs: vLLM mixes this class in (`worker_extension_cls`).

    `collective_rpc` calls them. Their names must not meet any of the worker's own.
    """

    model_runner: Any  # the worker's

    def pairwright_sample_traces(self, samples: list[str], dropped: list[str]) -> dict[str, SampleTrace]:
        """The traces of ended samples, which are forgotten here with those of `dropped` ones."""
        for sample in dropped:
            pending_traces.pop(sample, None)
        traces = {sample: pending_traces.pop(sample) for sample in samples if sample in pending_traces}
        return {
            sample: SampleTrace(
                lanes,
                tuple(int(step.tokens[step.place]) for step in steps),
                tuple(float(step.log_likelihoods[step.place]) for step in steps if step.log_likelihoods is not None),
            )
            for sample, (lanes, steps) in traces.items()
        }

    def pairwright_make_batch_invariant(self) -> int:
        return make_batch_invariant(self.model_runner.model)
