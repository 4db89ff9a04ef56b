"""Tiny byte-pair tokenizers of the forms that language models have, trained on the demo's sentences."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SENTENCES = Path("tests/data/everyday_sentences.txt").read_text(encoding="utf-8").splitlines()
END = "<|end|>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
FORMS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "Llama 3": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "SentencePiece": lambda: pre_tokenizers.Split("\u2581", "merged_with_next"),
}


def byte_pair_tokenizer(form: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one of `FORMS`, with an end token."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = FORMS[form]()
    special, alphabet = [END], pre_tokenizers.ByteLevel.alphabet()
    if form == "SentencePiece":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.model.byte_fallback = True
        special, alphabet = [END, "<unk>", *BYTES], []
    trainer = BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
