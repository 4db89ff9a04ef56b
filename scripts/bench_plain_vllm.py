"""The plain side of passages in `make bench-generation`: vLLM by itself, sampling and scoring the same prompts.

`python -m scripts.bench_plain_vllm TEACHER DTYPE` reads `{"prompts": [...], "scored": [...]}` from stdin: prompts that
end where a query is to be written, and whole texts whose prompt log-likelihoods are asked for. Batches, cache and
sampling are those of the service by default; each side is measured once, after a warm-up.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from shared.process import disable_openmp_spinning

LANES, STEP_TOKENS, LONGEST, TOKENS = 128, 4096, 1024, 40
WARM_UP = 2


def main(teacher: str, dtype: str) -> None:
    """Print both rates."""
    disable_openmp_spinning()
    for name, value in {"ENABLE_V1_MULTIPROCESSING": "0", "CPU_KVCACHE_SPACE": "1", "LOGGING_LEVEL": "ERROR"}.items():
        os.environ.setdefault(f"VLLM_{name}", value)
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    batches: dict[str, Any] = {"max_num_seqs": LANES, "max_num_batched_tokens": STEP_TOKENS, "max_model_len": LONGEST}
    if current_platform.is_cpu():
        batches |= {"enforce_eager": True, "block_size": 32}
    model = LLM(model=teacher, dtype=dtype, disable_log_stats=True, **batches)
    sampling = SamplingParams(temperature=1.0, top_k=5, top_p=0.9, max_tokens=TOKENS, stop=['"', "\n"])
    scoring = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    asked = json.load(sys.stdin)

    def rate(prompts: Sequence[str], params: Any) -> float:
        model.generate(prompts[:WARM_UP], params, use_tqdm=False)
        began = time.monotonic()
        model.generate(prompts[WARM_UP:], params, use_tqdm=False)
        return (len(prompts) - WARM_UP) / (time.monotonic() - began)

    print(json.dumps({"prompts_s": rate(asked["prompts"], sampling), "scored_s": rate(asked["scored"], scoring)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
