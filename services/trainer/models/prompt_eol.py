"""Teacher embeddings: the hidden state at the end of a prompt that asks for a text's meaning in one word.

Source: Jiang et al. 2023, "Scaling Sentence Embeddings with Large Language Models" (PromptEOL). The last layers turn to
the spelling of the next token and are left out. What it is good for: docs/quality.md.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel

from services.trainer.models import adapter, encoder
from services.trainer.models.normalization import normalize_spacing
from services.trainer.models.static import SPACES, Embeddings
from shared.errors import Fatal, first_line

PREFIX, SUFFIX = 'This sentence: "', '" means in one word: "'
DEPTH = 0.9  # the share of the teacher's layers that is run: 27 of 30
LONGEST = 256  # tokens of a text that are read, prompt included
BATCH = 32
TOKENIZER_OPTIONS = {"padding": True, "truncation": True, "max_length": LONGEST}
WORDS = 512  # words of the vocabulary whose mean embedding stands for what all embeddings have in common


class PromptEOLEncoder:
    """The lower layers of a teacher, its adapter merged if it has one."""

    def __init__(self, teacher: Path) -> None:
        """Load it from its folder. Raises `Fatal`."""
        self._device, dtype = ("cuda", "auto") if torch.cuda.is_available() else ("cpu", torch.float32)
        try:
            self.tokenizer, self.model = prompted_tokenizer(teacher), lower_layers(teacher, DEPTH, dtype)
            self.adapter = adapter.adapter_of(encoder.table_of(self.model))
            """Merged into `model`; None for all but the default teacher."""
            if self.adapter is not None:
                adapter.merge(self.model, self.adapter)
            self.model.to(self._device)
        except Fatal:
            raise
        except Exception as error:  # whatever a broken or unreachable model makes the libraries raise
            raise Fatal(f"PAIRWRIGHT_TEACHER: can't load {teacher} to learn from it: {first_line(error)}") from None

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], on_progress: Callable[[int], None] = lambda _: None) -> Embeddings:
        """float32 [texts, hidden]. `on_progress` gets how many are done. Texts of a length go together, to pad less."""
        embeddings = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            chunk = self.tokenizer([texts[place] for place in places], return_tensors="pt", **TOKENIZER_OPTIONS)
            ids, mask = chunk.input_ids.to(self._device), chunk.attention_mask.to(self._device)
            states = self.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
            last = states[torch.arange(len(places), device=self._device), mask.sum(dim=1) - 1]
            embeddings[places] = last.float().cpu().numpy()
            on_progress(first + len(places))
        return embeddings


def write_student(teacher: Path, folder: Path) -> None:
    """Write the teacher as a student into `folder`: lower layers, prompt, last token, centred. Raises `Fatal`.

    The prompt is part of its tokenizer. All teacher embeddings lie around a common mean, which says nothing.
    """
    teacher_encoder = PromptEOLEncoder(teacher)
    if teacher_encoder.adapter is not None:
        centre = teacher_encoder.adapter.centre
    else:
        centre = torch.from_numpy(teacher_encoder.encode(words(teacher_encoder.tokenizer)).mean(axis=0))
    # Only the libraries' own writers: nothing of ours is needed to load the student.
    teacher_encoder.model.save_pretrained(folder)
    teacher_encoder.tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=LONGEST)
    size = transformer.get_embedding_dimension()
    head = Dense(size, size, bias=True, activation_function=torch.nn.Identity())
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(size))
        head.linear.bias.copy_(-centre)
    student = SentenceTransformer(modules=[transformer, Pooling(size, "lasttoken"), head], device="cpu")
    encoder.save(student, folder)


def lower_layers(teacher: Path, share: float, dtype: Any) -> Any:
    """This share of a teacher's layers, from below, with its last norm and without its head."""
    model = AutoModel.from_pretrained(teacher, local_files_only=True, dtype=dtype).eval()
    config = copy.deepcopy(model.config)
    count = max(1, round(share * config.num_hidden_layers))
    for name, layers in list(model.named_children()):
        if isinstance(layers, torch.nn.ModuleList) and len(layers) == config.num_hidden_layers:
            setattr(model, name, layers[:count])
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    config.num_hidden_layers = count
    model.config = config
    return model


def prompted_tokenizer(teacher: Path) -> Any:
    """The teacher's tokenizer, which puts every text, its spacing made even, between the prompt's two halves.

    Raises `Fatal`.
    """
    tokenizer = encoder.tokenizer(teacher)
    begins = tokenizer("")["input_ids"][:1] if tokenizer.bos_token_id in tokenizer("a")["input_ids"][:1] else []
    prefix, suffix = (tokenizer(half, add_special_tokens=False)["input_ids"] for half in (PREFIX, SUFFIX))
    tokenizer.chat_template = None  # sentence-transformers would read a text as a message
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    normalize_spacing(tokenizer.backend_tokenizer)  # the halves, which are tokens already, keep their white space
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="before $A after",
        special_tokens=[
            {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for name, ids in (("before", begins + prefix), ("after", suffix))
        ],
    )
    return tokenizer


def words(tokenizer: Any) -> list[str]:
    """Words of the vocabulary, spread over its commoner half; of a vocabulary without any, whatever it has."""
    special = set(tokenizer.all_special_tokens)
    tokens = [token for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) if token not in special]
    words = [token[1:] for token in tokens[: len(tokens) // 2] if token[0] in SPACES and token[1:].isalpha()] or tokens
    return words[:: max(1, len(words) // WORDS)][:WORDS]
