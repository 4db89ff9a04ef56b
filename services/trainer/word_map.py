"""Training a static student by what its words share, instead of word by word.

A round's pairs hold some thousand of the fifty thousand words, each a few times: rows that learn one by one learn
little, fit the pairs' style, and leave all other words where they were. So two things that are the same for every
word are learned: a linear map of the word vectors, and how much a word weighs in a sentence, as a function of its
vector and its rarity. Both move every word, and both fold back into a table of word vectors: the student that comes out
is as static, and as fast, as the one that went in. docs/decisions/0042, docs/quality.md.
"""

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch.nn import functional

WIDEST = 3.0
"""A word's weight changes by at most e to this."""
TINY = 1e-6


class WordMap(StaticEmbedding):
    """A static student's words under a map and weights that learn. Starts as the student that it is made of."""

    def __init__(self, tokenizer: Any, embedding_weights: Any, **more: Any) -> None:
        super().__init__(tokenizer, embedding_weights=embedding_weights, **more)
        words = self.embedding.weight.requires_grad_(False)
        self.register_buffer("features", _features(words), persistent=False)
        self.turn = torch.nn.Parameter(torch.zeros(words.shape[1], words.shape[1]))
        """[dimensions, dimensions]: what is added to the identity."""
        self.importance = torch.nn.Parameter(torch.zeros(self.features.shape[1]))
        """[dimensions + 1]: the log of a word's weight, by its features."""

    @classmethod
    def of(cls, student: Any) -> "WordMap":
        """Around a `StaticEmbedding`, whose table is left alone."""
        return cls(student.tokenizer, student.embedding.weight.detach().clone())

    @classmethod
    def load(cls, model_name_or_path: str, **more: Any) -> "WordMap":
        """A checkpoint's words; the trainer puts what was learned into it afterwards."""
        return cls.of(StaticEmbedding.load(model_name_or_path, **more))

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds `sentence_embedding`, [texts, dimensions]: the weighted mean of each text's words, mapped."""
        ids, offsets = features["input_ids"], features["offsets"]
        weights = self._weights(self.features[ids])
        total = functional.embedding_bag(ids, self.embedding.weight, offsets, mode="sum", per_sample_weights=weights)
        counts = torch.diff(offsets, append=offsets.new_tensor([len(ids)])).clamp(min=1)
        features["sentence_embedding"] = self._mapped(total / counts[:, None])
        return features

    @torch.no_grad()
    def folded(self) -> Any:
        """The table of a plain static student that embeds texts as this one does, [tokens, dimensions]."""
        return self._mapped(self.embedding.weight * self._weights(self.features)[:, None])

    def _weights(self, features: Any) -> Any:
        return torch.exp((features @ self.importance).clamp(-WIDEST, WIDEST))

    def _mapped(self, vectors: Any) -> Any:
        return vectors + vectors @ self.turn


def _features(words: Any) -> Any:
    """What a word's weight may depend on, [tokens, dimensions + 1]: its direction and its rank (rarity).

    All features are of about the same size, half a unit, so that one learning rate fits them and the map.
    """
    directions = words / words.norm(dim=1, keepdim=True).clamp(min=TINY) * words.shape[1] ** 0.5
    rarity = torch.log1p(torch.arange(len(words), dtype=words.dtype))
    rarity = (rarity - rarity.mean()) / rarity.std().clamp(min=TINY)
    return torch.cat([directions / 2, rarity[:, None]], dim=1)
