"""What a student takes before it trains: a static one teacher embeddings, and each the terms of a corpus."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.trainer.distillation import corpus, corpus_terms, embedding_cache, ridge
from services.trainer.evaluation.sts import Encode
from services.trainer.models import encoder
from services.trainer.training.retrieval import Corpus

MOST_EMBEDDED = 4_000
"""Passages that a transformer embeds for the map of its vectors: ten for each of its dimensions are plenty."""
OLD_SHARE = 1.0
"""The least length of a student's old vectors beside those that a round's texts give it: less of them, and cosines of
general text are lost (docs/quality.md)."""


def fit_to_teacher(
    model: Any,
    texts: Sequence[str],
    file: Path,
    load: Callable[[], Encode],
    on_progress: Callable[[int], None],
    find: embedding_cache.Find,
) -> dict[str, float]:
    """Fit the student to the teacher embeddings of at least `ridge.FEWEST` texts, which `file` keeps; what the manifest
    says of it. See `embedding_cache.encode_cached`."""
    began = time.monotonic()
    teacher_embeddings = embedding_cache.encode_cached(texts, file, load, on_progress, find)
    bag = encoder.bag_of_tokens_matrix(model, texts)
    fitted = ridge.fit_to_teacher(encoder.token_embeddings(model), bag, teacher_embeddings, OLD_SHARE)
    encoder.set_token_embeddings(model, ridge.rotate_to_principal_axes(fitted, bag))
    return {"teacher_embeddings": len(texts), "teacher_embeddings_s": round(time.monotonic() - began, 1)}


def add_corpus_terms(model: Any, found: Corpus) -> dict[str, float]:
    """Give the student the terms of a corpus; what the manifest says of it."""
    static = encoder.is_static(model)
    began, texts = time.monotonic(), found.texts(corpus_terms.MOST if static else MOST_EMBEDDED)
    if len(texts) < corpus_terms.FEWEST:
        return {}
    passages, general = (encoder.bag_of_tokens_matrix(model, some) for some in (texts, corpus.sentences()))
    if static:
        table = corpus_terms.add_corpus_terms(encoder.token_embeddings(model), passages, general)
        encoder.set_token_embeddings(model, table)
    else:
        encoder.add_linear_map(model, corpus_terms.corpus_linear_map(encoder.encode(model, texts), passages, general))
    return {"corpus_terms": len(texts), "corpus_terms_s": round(time.monotonic() - began, 1)}
