"""The reference side of `make bench-generation`: DINO's decoding with the original's batching, on plain transformers.

`python -m scripts.bench_original TEACHER DTYPE` reads a JSON list of samples from stdin, each the prompts of its lanes,
the label's own first. As timoschick/dino does: one first sentence and label at a time, two samples of it together, the
counter prompts as further rows of that batch, always 40 tokens, the text cut at the first quote afterwards.
"""

import json
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOGETHER, TOKENS = 2, 40
DECAY_CONSTANT, FLOOR, TOP_K, TOP_P = 100.0, 0.01, 5, 0.9


class Original:
    """The model, decoding batch by batch."""

    def __init__(self, teacher: str, dtype: str) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(teacher, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(teacher, dtype=getattr(torch, dtype))
        self.model: Any = model.to(self.device).eval()

    def write(self, prompts: list[str]) -> list[str]:
        """Two sentences for one sample's prompts."""
        rows = [prompt for prompt in prompts for _ in range(TOGETHER)]
        batch = self.tokenizer(rows, return_tensors="pt", padding=True, add_special_tokens=False).to(self.device)
        fed, mask, cache = batch.input_ids, batch.attention_mask, None
        drawn = []
        for _ in range(TOKENS):
            positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -fed.shape[1] :]
            state = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
            output = self.model(fed, **state, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            drawn.append(self._draw(output.logits[:, -1].float()))
            fed = drawn[-1].repeat(len(prompts))[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [text.partition('"')[0] for text in self.tokenizer.batch_decode(torch.stack(drawn, dim=1))]

    def _draw(self, logits: torch.Tensor) -> torch.Tensor:
        """One token for each of the samples. logits: [lanes x samples, vocabulary]."""
        logits[:, self.tokenizer.all_special_ids] = float("-inf")
        own, *others = torch.softmax(logits, dim=-1).split(TOGETHER)
        if others:
            disliked = (torch.stack(others).amax(dim=0) - own).clamp_min(0)
            own = own * torch.exp(-DECAY_CONSTANT * disliked).clamp_min(FLOOR)
        kept, tokens = own.topk(TOP_K, dim=-1)
        kept = kept / kept.sum(dim=-1, keepdim=True)
        kept = torch.where(kept.cumsum(dim=-1) - kept < TOP_P, kept, 0.0)
        return tokens.gather(1, torch.multinomial(kept, 1)).squeeze(1)


if __name__ == "__main__":
    teacher, dtype = sys.argv[1:]
    samples: list[list[str]] = json.load(sys.stdin)
    original = Original(teacher, dtype)
    with torch.inference_mode():
        original.write(samples[0])  # warm-up
        began = time.monotonic()
        written = sum(len(original.write(prompts)) for prompts in samples)
    seconds = time.monotonic() - began
    print(json.dumps({"pairs_s": written / seconds, "tokens_s": written * TOKENS / seconds}))
