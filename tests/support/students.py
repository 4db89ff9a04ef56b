"""Tiny real models, made on the spot: a static student, a plain encoder, and a teacher to make a student from."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from services.trainer.models.prompt_eol import PromptEOLEncoder
from shared.settings import Settings, load
from shared.teacher import default_teacher
from tests.support.pairs import WORDS

SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
DIMENSIONS = 16


def word_tokenizer() -> Tokenizer:
    """One token a word; unknown ones are [UNK]."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def write_static(folder: Path) -> None:
    """Random word vectors: untrained, similarity is word overlap and chance."""
    table = np.random.default_rng(7).standard_normal((len(SPECIAL) + len(WORDS), DIMENSIONS)).astype(np.float32)
    module = StaticEmbedding(word_tokenizer(), embedding_weights=table)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder), create_model_card=False)


def write_encoder(folder: Path) -> None:
    """A BERT of two random layers, without sentence-transformers' files."""
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=DIMENSIONS, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    _fast_tokenizer().save_pretrained(folder)


def write_teacher(folder: Path, tied: bool, layers: int = 1, seed: int = 7) -> None:
    """A Llama of random layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=24, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    _fast_tokenizer().save_pretrained(folder)


@cache
def default_encoder() -> PromptEOLEncoder:
    """The default teacher, loaded once for all tests of a process."""
    return PromptEOLEncoder(default_teacher(load(Settings).cache_dir))


def _fast_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    )  # fmt: skip
