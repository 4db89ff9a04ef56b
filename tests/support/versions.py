"""Tiny real students, made on the spot: two static ones with different vectors, and a transformer."""

from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from shared.manifest import PROBE_SENTENCES, Card, Manifest
from shared.model_store import ModelStore

TEXT = (
    "a an the is are man woman child dog cat guitar market stock music playing eating running fell sharply on monday "
    "s café opens at 7 m it km away no yes red green blue house river short long very word"
)
WORDS = sorted(set(TEXT.split()))
DIMENSIONS = 16
MAX_TOKENS = 24


def word_tokenizer(special: list[str]) -> Tokenizer:
    """Splits at blanks and punctuation; other words are [UNK]."""
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def static_student(seed: int, dimensions: int = DIMENSIONS) -> SentenceTransformer:
    """The mean of random token vectors. Another seed gives other vectors for the same text."""
    weights = np.random.default_rng(seed).standard_normal((len(WORDS) + 1, dimensions)).astype(np.float32)
    weights[0] = 0  # unknown words say nothing
    module = StaticEmbedding(word_tokenizer(["[UNK]"]), embedding_weights=weights)
    return SentenceTransformer(modules=[module], device="cpu")


def transformer_student(folder: Path, seed: int) -> SentenceTransformer:
    """A BERT of two random layers that reads 24 tokens and answers with the first one's vector."""
    torch.manual_seed(seed)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = word_tokenizer(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
    ).save_pretrained(folder)  # fmt: skip
    config = BertConfig(
        vocab_size=len(WORDS) + len(special), hidden_size=DIMENSIONS, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=MAX_TOKENS,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(DIMENSIONS, "cls")], device="cpu")


def publish(
    store: ModelStore, student: SentenceTransformer, round_number: int, rejection: str | None = None, **card: object
) -> Manifest:
    """Publish a student as the trainer does; with `rejection`, put it aside as a candidate that the gate refused."""
    with store.staging() as folder:
        student.save(str(folder), create_model_card=False)
        probe = student.encode(list(PROBE_SENTENCES)).tolist()
        dimensions = len(probe[0])
        fields = {"base": "test", "round": round_number, "pairs": 0, "dimensions": dimensions} | card
        if rejection is not None:
            return store.reject(folder, Card.model_validate(fields), probe, rejection)
        return store.publish(folder, Card.model_validate(fields), probe)
