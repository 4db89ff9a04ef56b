"""Sentences that the default teacher wrote, and its views of them: what its static student learns before any pair.

They lie in `teacher_corpus/`, so that nobody has to wait for them; how they came to be is told there. They mean nothing
to the student of another teacher. `python -m services.trainer.corpus` views the sentences again.

Views are kept coarsely: their main components in 31 steps each. What a student learns of them is the same
(docs/quality.md, "The fifth round"), at about an eighth of the size in half precision.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.trainer.distillation.embedding_cache import Embeddings
from services.trainer.models.static import Table, fingerprint
from shared import teacher
from shared.errors import Fatal
from shared.process import configure_logging, exit_with
from shared.settings import Settings, load

log = logging.getLogger("services.trainer.distillation.corpus")  # not __name__: this module is also run

FOLDER = Path(__file__).with_name("data")
SENTENCES, VIEWS = FOLDER / "sentences.txt", FOLDER / "views.npz"
COMPONENTS, STEPS = 256, 15
"""What is kept of a view: so many principal components, each in so many steps to either side of the mean."""


class Corpus(NamedTuple):
    """Sentences, and what the teacher sees in each: [sentences, hidden]."""

    texts: list[str]
    views: Embeddings


def corpus_of(table: Table) -> Corpus | None:
    """The corpus, if the teacher that has this token table wrote it."""
    with np.load(VIEWS, allow_pickle=False) as kept:
        if str(kept["teacher"]) != fingerprint(table):
            return None
        return Corpus(_sentences(), dequantize(kept))


def quantize(views: Embeddings) -> dict[str, npt.NDArray[Any]]:
    """What is kept of `views` [sentences, hidden]: `steps` [sentences, up to 256] along `components` from `mean`."""
    mean = views.mean(axis=0, dtype=np.float64)
    centred = views - mean
    components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
    along = centred @ components
    width = np.maximum(np.abs(along).max(axis=0), 1e-12) / STEPS
    return {
        "steps": np.round(along / width).astype(np.int8),
        "components": (components * width).T.astype(np.float16),
        "mean": mean.astype(np.float32),
    }


def dequantize(kept: Mapping[str, npt.NDArray[Any]]) -> Embeddings:
    """The views as far as they were kept, [sentences, hidden]."""
    views: Embeddings = kept["steps"].astype(np.float32) @ kept["components"].astype(np.float32) + kept["mean"]
    return views


def main() -> None:
    """View the sentences, and write that down. Raises `Fatal`."""
    from services.trainer.models import encoder
    from services.trainer.models.prompt_eol import PromptEOLEncoder

    common = load(Settings)
    configure_logging(common.log_level, common.log_format, "corpus")
    folder = teacher.default_teacher(common.cache_dir)
    texts = _sentences()
    log.info("viewing %d sentences", len(texts))
    views = PromptEOLEncoder(folder).views(texts)
    kept = quantize(views)
    kept["teacher"] = np.array(fingerprint(encoder.token_table(folder)))
    np.savez_compressed(VIEWS, allow_pickle=False, **kept)


def _sentences() -> list[str]:
    return SENTENCES.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("corpus", fatal)
