"""The only module that imports ONNX Runtime: the int8 transformer of a version."""

from pathlib import Path

import numpy as np
import numpy.typing as npt


class OnnxSession:
    """A transformer from token ids to token vectors. Several threads may run it at a time."""

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime  # half a second, and versions without int8 need none of it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the cores from the event loop: measured, it halves the throughput of 2 cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Its arena grows to the largest batch and never shrinks.
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32 [rows, tokens, hidden] of int64 ids and mask [rows, tokens]."""
        vectors: npt.NDArray[np.float32] = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return vectors
