"""Sentences that the default teacher wrote, and its views of them: what its static student learns before any pair.

They lie in `teacher_corpus/`, so that nobody has to wait for them; how they came to be is told there. They mean nothing
to the student of another teacher. `python -m services.trainer.corpus` views the sentences again.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from services.trainer.static import Table, fingerprint
from services.trainer.views import Views
from shared import teacher
from shared.process import Fatal, configure_logging, exit_with
from shared.settings import Settings, load

log = logging.getLogger("services.trainer.corpus")  # not __name__: this module is also run

FOLDER = Path(__file__).with_name("teacher_corpus")
SENTENCES, VIEWS = FOLDER / "sentences.txt", FOLDER / "views.npz"


class Corpus(NamedTuple):
    """Sentences, and what the teacher sees in each: [sentences, hidden]."""

    texts: list[str]
    views: Views


def written_by(table: Table) -> Corpus | None:
    """The corpus, if the teacher that has this token table wrote it."""
    with np.load(VIEWS, allow_pickle=False) as kept:
        if str(kept["teacher"]) != fingerprint(table):
            return None
        return Corpus(_sentences(), kept["views"].astype(np.float32))


def main() -> None:
    """View the sentences, and write that down. Raises `Fatal`."""
    from services.trainer import encoder
    from services.trainer.one_word import OneWordTeacher

    common = load(Settings)
    configure_logging(common.log_level, common.log_format, "corpus")
    folder = teacher.default_teacher(common.cache_dir)
    texts = _sentences()
    log.info("viewing %d sentences", len(texts))
    views = OneWordTeacher(folder).views(texts)
    # Half precision, as the views of a dataset's sentences are kept: it is far below what a view means.
    whose = np.array(fingerprint(encoder.token_table(folder)))
    np.savez_compressed(VIEWS, views=views.astype(np.float16), teacher=whose)


def _sentences() -> list[str]:
    return SENTENCES.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    try:
        main()
    except Fatal as fatal:
        exit_with("corpus", fatal)
