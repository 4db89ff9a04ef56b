"""The names of base students, checked without loading one: imports nothing heavy, so the worker may use it."""

from pathlib import Path

from shared import teacher
from shared.settings import MADE_STUDENTS

SETTING = "PAIRWRIGHT_STUDENT"
MODEL_FILES = ("modules.json", "config.json")  # a student's folder holds one of them


def check(name: str) -> None:
    """Raise `Fatal` for a student that can't be one, as far as that shows without loading it."""
    if name not in MADE_STUDENTS:
        teacher.folder_or_hub_id(name, SETTING, *MODEL_FILES)


def is_static(name: str) -> bool:
    """Whether it is a table of word vectors, as far as that shows without loading it: one on the hub counts as none."""
    file = Path(name, "modules.json")
    return name == "default" or (file.is_file() and "StaticEmbedding" in file.read_text())
