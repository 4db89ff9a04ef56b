"""Whether a teacher is known to write the language that is asked of it. One that isn't writes noise, or English."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from services.generation.pairs.plan import ResolvedPlan
from services.generation.pairs.tasks import X1

ENGLISH = "en"
DEFAULT_TEACHER = frozenset({ENGLISH})
"""SmolLM2's card names English alone."""
SAMPLE = 50
"""Sentences whose language is detected, all together: a single short one says little."""
CONFIDENCE = 0.6
"""Below it a text's language counts as unknown: technical English is between 0.1 and 0.8, and not always English."""


def language_warning(plan: ResolvedPlan, known: frozenset[str], teacher: str) -> str | None:
    """One line for a job in a language that the teacher is not known to write; None if there is nothing to say.

    The language is that of the given sentences, else of the instructions. `known` are ISO 639-1 codes. The first call
    reads the detector's model, about a second.
    """
    what = "given sentences are" if plan.inputs else "instructions are"
    return texts_warning(plan.inputs or _instructions(plan), known, teacher, what)


def texts_warning(texts: Sequence[str], known: frozenset[str], teacher: str, what: str = "documents are") -> str | None:
    """One line for texts in a language that the teacher is not known to write; None if there is nothing to say."""
    language = detect(texts)
    if language is None or language in known:
        return None
    return (
        f"the {what} in {language!r}, and the teacher ({teacher}) is known to write {', '.join(sorted(known))} only: "
        "pairs may be in another language, or noise. Look at them with dry_run; name another teacher with "
        "PAIRWRIGHT_TEACHER, or this one's languages with PAIRWRIGHT_GENERATION_TEACHER_LANGUAGES"
    )


def detect(texts: Sequence[str]) -> str | None:
    """The ISO 639-1 code of the language of some texts together; None if that is not clear."""
    chosen = texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]
    language, confidence = _identifier().classify("\n".join(chosen))
    return str(language) if len(language) == 2 and confidence >= CONFIDENCE else None


def teacher_languages(setting: str | None, teacher: str) -> frozenset[str]:
    """The languages that a teacher is known to write: the setting's, else its card's; without a card, English."""
    if setting:
        return frozenset(setting.replace(",", " ").lower().split())
    return DEFAULT_TEACHER if teacher == "default" else _languages_of_card(teacher) or frozenset({ENGLISH})


def _languages_of_card(teacher: str) -> frozenset[str]:
    """What a model's card names as its languages. A hub id's card is looked for in the hub's cache alone."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    folder = Path(teacher).expanduser()
    try:
        card = folder / "README.md" if folder.is_dir() else try_to_load_from_cache(teacher, "README.md")
        if not isinstance(card, str | Path) or not Path(card).is_file():
            return frozenset()
        languages = ModelCard.load(card).data.language
    except Exception:  # whatever is wrong with it, such a card says nothing
        return frozenset()
    return frozenset([languages] if isinstance(languages, str) else languages or ())


def _instructions(plan: ResolvedPlan) -> list[str]:
    return [plan.task.labels[name].instruction.replace(X1, "") for name in plan.label_names]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
