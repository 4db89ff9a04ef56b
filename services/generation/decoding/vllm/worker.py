"""What we ask of vLLM's worker: sample traces, and batch-invariant layers.

vLLM mixes this class into its worker (`worker_extension_cls`) and calls it through `collective_rpc`, in our process or,
with tensor parallelism, in the worker's own.
"""

from typing import Any

from services.generation.decoding.vllm.batch_invariance import make_batch_invariant
from services.generation.decoding.vllm.processor import SampleTrace, pending_traces


class LaneWorker:
    """Methods for vLLM's worker. Their names must not meet any of its own."""

    model_runner: Any  # the worker's

    def pairwright_sample_traces(self, samples: list[str], dropped: list[str]) -> dict[str, SampleTrace]:
        """The traces of ended samples, which are forgotten here with those of `dropped` ones."""
        for sample in dropped:
            pending_traces.pop(sample, None)
        traces = {sample: pending_traces.pop(sample) for sample in samples if sample in pending_traces}
        return {
            sample: SampleTrace(lanes, tuple(int(tokens[place]) for tokens, place in steps))
            for sample, (lanes, steps) in traces.items()
        }

    def pairwright_make_batch_invariant(self) -> int:
        return make_batch_invariant(self.model_runner.model)
