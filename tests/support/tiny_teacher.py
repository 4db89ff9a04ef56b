"""A causal language model of a few hundred thousand random weights, with a tokenizer that can close a sentence.

Its words make no sense, but everything else is real: vLLM loads it, its lanes disagree, it stops at closing quotes.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from services.generation.pairs.tasks import BUILT_IN, load_task

CLOSINGS = 40


def make_tiny_teacher(folder: Path, seed: int = 0) -> Path:
    """Save the model in `folder`. Word-level tokens; about a tenth of them end in a quote."""
    words = _words_of_the_prompts()
    tokens = ["<|end|>", "<|unknown|>", "\n", '"', *words, *(f'stop{number}."' for number in range(CLOSINGS))]
    vocabulary = {token: id_ for id_, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split('"', "isolated"),
            pre_tokenizers.Split(" ", "removed"),
        ]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<|unknown|>", eos_token="<|end|>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary) + 3,  # as models do, more rows than tokens: those ids must never be drawn
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # large: distributions with peaks, so that lanes disagree about them
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _words_of_the_prompts() -> list[str]:
    spec = load_task(BUILT_IN / "sts.json")
    texts = [label.instruction for label in spec.labels.values()]
    texts += [text for label in spec.labels.values() for pair in label.exemplars for text in pair]
    texts += [f"word{number}" for number in range(150)]
    return sorted({word for text in texts for word in text.replace('"', " ").split()} - {"\n"})
