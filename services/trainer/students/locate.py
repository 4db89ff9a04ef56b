"""Where the base student is: a folder, a hub id, or one that is made once from the teacher's table or lower layers."""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

from services.trainer.models import static
from services.trainer.students.names import MODEL_FILES, SETTING
from shared import teacher
from shared.errors import Fatal, first_line
from shared.settings import MADE_STUDENTS

log = logging.getLogger(__name__)

MAKER = 9
"""Raise it when a student or a teacher embedding is made differently: old caches are then left alone."""


def locate(name: str, teacher_name: str, cache: Path) -> str:
    """A folder or a hub id that `encoder.load` takes. May make the student first. Raises `Fatal`."""
    if name not in MADE_STUDENTS:
        return teacher.folder_or_hub_id(name, SETTING, *MODEL_FILES)
    source = teacher_folder(teacher.locate(teacher_name, cache))
    target = cache / f"student-{'static' if name == 'default' else name}-{identity(source)}"
    base = None
    if name == "compact" and not target.is_dir():  # not below: one process can't take the lock twice
        _check_layers(source)
        base = Path(locate("default", teacher_name, cache))
    try:
        teacher.make_once(target, ".making-student-", partial(_make, name, source, base))
    except OSError as error:
        raise Fatal(f"PAIRWRIGHT_CACHE: can't keep the student in {cache}: {error}") from None
    return str(target)


def teacher_folder(located: str) -> Path:
    """The teacher's folder; one on the hub is downloaded, or read from the hub's own cache."""
    if Path(located).is_dir():
        return Path(located)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(located, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:  # a dozen classes of the hub's, of httpx and of the system
        reason = first_line(error)
        raise Fatal(f"PAIRWRIGHT_TEACHER: can't get {located} for the student made of it: {reason}") from None


def identity(folder: Path) -> str:
    """Names the teacher's files without reading gigabytes of weights."""
    digest = hashlib.sha256(f"{MAKER} {static.DIMENSIONS} {static.DROPPED}\n".encode())
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _make(name: str, source: Path, base: Path | None, folder: Path) -> None:
    # Only here: these imports take seconds, and a student is made once.
    from services.trainer.models import encoder, prompt_eol

    log.info("making the student from %s (once, about a minute)", source)
    if name == "teacher":
        prompt_eol.write_student(source, folder)
    else:
        encoder.save(_static(source) if base is None else _compact(source, base), folder)


def _static(source: Path) -> Any:
    from services.trainer.distillation import corpus, ridge, similarity
    from services.trainer.models import adapter, encoder

    tokenizer, table = encoder.tokenizer(source), encoder.token_table(source)
    model = encoder.static_student(tokenizer, table)
    own = corpus.corpus_of(table)
    if own is not None:
        bag = encoder.bag_of_tokens_matrix(model, own.texts)
        encoder.set_token_embeddings(model, ridge.fit_to_teacher(encoder.token_embeddings(model), bag, own.embeddings))
        trained = adapter.adapter_of(table)
        if trained is not None:
            similarity.distill_similarities(model, own.texts, own.embeddings - trained.centre.numpy())
            encoder.set_token_embeddings(model, ridge.rotate_to_principal_axes(encoder.token_embeddings(model), bag))
    return model


def _compact(source: Path, base: Path) -> Any:
    from services.trainer.models import compact, encoder

    model = encoder.load(str(base), SETTING)
    layers = compact.layers_of(encoder.token_table(source))
    return compact.student(model.tokenizer, encoder.token_embeddings(model), layers)


def _check_layers(source: Path) -> None:
    from services.trainer.models import compact, encoder

    if compact.layers_of(encoder.token_table(source)) is None:
        raise Fatal(f"{SETTING}: the layers of 'compact' were trained for the default teacher; name another student")
