"""The corpus: sentences that the default teacher wrote, and its embeddings of them, for its static student alone.

How `data/` was made: `data/README.md`. `python -m services.trainer.distillation.corpus` embeds the sentences again.
Embeddings are quantized to an eighth of the size in half precision: a student learns the same (docs/quality.md).
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from services.trainer.models.static import Embeddings, Table, fingerprint
from shared import teacher
from shared.process import configure_logging, fatal_in_one_line
from shared.settings import Settings, load

log = logging.getLogger("services.trainer.distillation.corpus")  # not __name__: this module is also run

FOLDER = Path(__file__).with_name("data")
SENTENCES, EMBEDDINGS = FOLDER / "sentences.txt", FOLDER / "embeddings.npz"
COMPONENTS, STEPS = 256, 15  # principal components that are kept, and steps of each to either side of the mean


class Corpus(NamedTuple):
    """Sentences and their teacher embeddings, [sentences, hidden]."""

    texts: list[str]
    embeddings: Embeddings


def corpus_of(table: Table) -> Corpus | None:
    """The corpus, if the teacher that has this token table wrote it."""
    with np.load(EMBEDDINGS, allow_pickle=False) as file:
        if str(file["teacher"]) != fingerprint(table):
            return None
        return Corpus(sentences(), dequantize(file))


def quantize(embeddings: Embeddings) -> dict[str, npt.NDArray[Any]]:
    """`embeddings` [sentences, hidden] as `steps` [sentences, up to 256] along `components` from `mean`."""
    pca = PCA(min(COMPONENTS, *embeddings.shape), svd_solver="covariance_eigh")
    coordinates = pca.fit_transform(embeddings.astype(np.float64))
    width = np.maximum(np.abs(coordinates).max(axis=0), 1e-12) / STEPS
    return {
        "steps": np.round(coordinates / width).astype(np.int8),
        "components": (pca.components_ * width[:, None]).astype(np.float16),
        "mean": pca.mean_.astype(np.float32),
    }


def dequantize(quantized: Mapping[str, npt.NDArray[Any]]) -> Embeddings:
    """The embeddings as far as they were kept, [sentences, hidden]."""
    components = quantized["components"].astype(np.float32)
    return np.asarray(quantized["steps"].astype(np.float32) @ components + quantized["mean"])


def main() -> None:
    """Embed the sentences, and write the file. Raises `Fatal`."""
    from services.trainer.models import encoder
    from services.trainer.models.prompt_eol import PromptEOLEncoder

    common = load(Settings)
    configure_logging(common.log_level, common.log_format, "corpus")
    folder = teacher.default_teacher(common.cache_dir)
    texts = sentences()
    log.info("embedding %d sentences", len(texts))
    quantized = quantize(PromptEOLEncoder(folder).encode(texts))
    quantized["teacher"] = np.array(fingerprint(encoder.token_table(folder)))
    np.savez_compressed(EMBEDDINGS, allow_pickle=False, **quantized)


def sentences() -> list[str]:
    """General text: what the default teacher wrote about each word of its vocabulary."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    with fatal_in_one_line("corpus"):
        main()
