"""What is wrong with a written sentence: small pure functions, by the names under which rejections are counted."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from services.generation.decoding.base import End
from services.generation.pairs.comparison import (
    changes_meaning,
    has_repetition,
    is_near_copy,
    main_script,
    normalised,
    word_runs,
)
from services.generation.pairs.prompts import Exchange, Prompt
from shared.pairs import check_sentence

NO_PROMPT = Prompt((Exchange(""),))


@dataclass(frozen=True)
class Draft:
    """A sentence as the engine wrote it, and what it is filtered by."""

    text: str
    end: End = "quote"
    given: str = ""
    """The pair's other sentence, for which it was written; empty while a first sentence is."""
    score: float = 1.0
    """The label's."""
    prompt: Prompt = NO_PROMPT
    """What the teacher read: its sentences must not come back, and neither must its instruction."""
    is_query: bool = False
    """Whether it is a query, and `given` its passage."""


Filter = Callable[[Draft], bool]
"""True: throw the sentence away."""

FIELD_NAME = re.compile(
    r"\b(task|sentence(?: [12])?|question|answer|query|passage|premise|hypothesis)\s*:", re.IGNORECASE
)
INSTRUCTION = re.compile(
    r"\bwrite (a|an|one|two|the) (\w+ )?(sentence|question|passage|query|answer)s?\b", re.IGNORECASE
)
A_TEXT = r"(sentence|question|quer(y|ie)|passage|paraphrase|translation|rewrite)s?"
META_TEXT = re.compile(
    rf"\bhere('s| is| are) (a|an|one|two|three|some|the|my|your|another)( \w+){{0,3}} {A_TEXT}\b|"
    r"\bi('ll| will| can) (write|generate|rephrase|rewrite|paraphrase) "
    rf"(a|an|the|two|this|that|your|another)( \w+){{0,3}} {A_TEXT}\b|"
    r"\bhier (ist|sind) (ein|zwei|die|der|das|mein|dein)\w*( \w+){0,3} (satz|sätze|saetze|beispiel|frage)\w*|"
    r"\bvoici (une|deux|la|les|un|le)( \w+){0,3} (phrase|exemple|question)s?\b|"
    r"\baquí (tienes|está|hay) (una|dos|la|un|el)( \w+){0,3} (frase|oraci|ejemplo|pregunta)",
    re.IGNORECASE,
)
A_SOURCE = "passage|text|article|paper|document|abstract|excerpt|paragraph|page|study|report"
META_QUERY = re.compile(
    rf"\b(this|these) ({A_SOURCE}|work|authors?)s?\b|\bthe (passage|excerpt|paragraph|abstract|authors?)\b|"
    rf"\b(above|following|given|present|provided) ({A_SOURCE})s?\b|"
    r"\b(according to|in|from|of|by) the (text|article|paper|document)\b|"
    r"\b(described|mentioned|stated|shown|discussed) (above|here|below)\b|"
    r"\b(diese[rsmn]?|im|laut) (text|abschnitt|artikel|textes|dokument)\b|"
    r"\b(ce|cet|cette) (texte|passage|article|document|étude)\b|\best[ea] (texto|pasaje|artículo|documento|estudio)\b",
    re.IGNORECASE,
)
"""A query that speaks of its passage: nobody who searches has it before them."""
REFUSAL = re.compile(
    r"\bas an? (ai|artificial intelligence|large language model|language model)\b(?! (system|tool|project)s?\b)|"
    r"\bi('m| am) (just |only )?an? (ai|(large )?language model)\b|"
    r"\bi( can('|no)?t|( am|'m) (unable|not able) to) (generate|fulfil\w*|provide|assist with|help (you )?with|write) "
    r"(that|this|these|those|any|a|an|the|you|such|sentences?|content)\b",
    re.IGNORECASE,
)
SPECIAL_TOKEN = re.compile(
    r"<\|[^|>]{1,40}\|>|</?s>|\[/?inst\]|<</?sys>>|<(pad|unk|bos|eos|mask|start_of_turn|end_of_turn)>|"
    r"###\s*(instruction|response|input)\b",
    re.IGNORECASE,
)
CLOSERS = "'\")]}’”»›"
TERMINAL = re.compile(rf"[.!?…。！？।॥؟۔][{re.escape(CLOSERS)}]*$")
OPEN_END = re.compile(
    # A word that another one must follow,
    r"(^|\s)(an?|the|and|or|but|nor|of|to|from|with|by|at|in|on|for|into|onto|than|as|because|although|if|unless|until|"
    r"while|whose|which|that|my|your|his|her|its|our|their|is|are|was|were|am|be|been|has|had|can|will|would|could|"
    r"should|must|may|might|very|called|named|titled|entitled|meaning)$|"
    # a mark that goes on,
    r"[,:;(\[{=–—]$|\s-$|"
    # or a bracket or quotation mark that nothing closes.
    r"\([^)]*$|\[[^\]]*$|[“„][^”“]*$|«[^»]*$|(^|\s)'(?!\d0s\b|t(is|was|il)\b|em\b|cause\b|n\b)\w[^']*$",
    re.IGNORECASE,
)
SHARED_WORDS = 5
"""A run of so many words that a prompt has too was taken from it."""
LOW_SCORE = 0.5
"""Below it a number or a negation that changes is what the label asks for."""
FIRST_WORDS = 3
COPIED_RUN, COPIED_SHARE = 4, 0.5
"""A query is a copy if this share of its runs of so many words is its passage's. Shorter queries may be names of
things."""


def _unreadable(draft: Draft) -> bool:
    try:
        check_sentence(draft.text)
    except ValueError:
        return True
    return "\ufffd" in draft.text


def _has(pattern: re.Pattern[str], draft: Draft) -> bool:
    """Whether a pattern is in a sentence. One that sentence 1 has itself is no evidence: it may be its subject."""
    text, given = draft.text.replace("’", "'"), draft.given.replace("’", "'")
    return bool(pattern.search(text)) and not pattern.search(given)


def _is_echo(draft: Draft) -> bool:
    return _has(FIELD_NAME, draft) or _has(INSTRUCTION, draft) or _repeats_instruction(draft)


def _repeats_instruction(draft: Draft) -> bool:
    """Whether the text has a field's name of the instruction, its first words, or a run of its words."""
    runs, words = _new_runs(draft), normalised(draft.text).split()
    for line in draft.prompt.bare_instruction.splitlines():
        field, colon, rest = line.partition(":")
        if colon and field.strip() and _has(_field_pattern(field.strip()), draft):
            return True
        first = normalised(rest if colon else line).split()[:FIRST_WORDS]
        if len(first) == FIRST_WORDS and words[:FIRST_WORDS] == first and not _begins_with(draft.given, first):
            return True
        if runs & word_runs(line, SHARED_WORDS):
            return True
    return False


@lru_cache(maxsize=256)
def _field_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}\s*:", re.IGNORECASE)


def _begins_with(text: str, words: list[str]) -> bool:
    return normalised(text).split()[: len(words)] == words


def _new_runs(draft: Draft) -> set[tuple[str, ...]]:
    """The text's runs of words that sentence 1 has not."""
    return word_runs(draft.text, SHARED_WORDS) - word_runs(draft.given, SHARED_WORDS)


def _is_of_an_exemplar(draft: Draft) -> bool:
    sentences, runs = _exemplar_words(draft.prompt.exemplars)
    text = normalised(draft.text)
    return (text in sentences and text != normalised(draft.given)) or bool(_new_runs(draft) & runs)


@lru_cache(maxsize=256)
def _exemplar_words(exemplars: tuple[Exchange, ...]) -> tuple[set[str], set[tuple[str, ...]]]:
    """The exemplars' sentences, normalised, and the runs of words in them, both sentences of each."""
    sentences = [text for one in exemplars for text in (one.sentence, one.given) if text]
    return set(map(normalised, sentences)), {run for text in sentences for run in word_runs(text, SHARED_WORDS)}


def _is_in_another_script(draft: Draft) -> bool:
    """Whether a partner is in another script than sentence 1. Exemplars that change it show that it should be."""
    scripts = [(main_script(one.given), main_script(one.sentence)) for one in draft.prompt.exemplars]
    first, second = main_script(draft.given), main_script(draft.text)
    return None not in (first, second) and first != second and all(one == other for one, other in scripts)


def _is_copy(draft: Draft) -> bool:
    if draft.is_query and (runs := word_runs(draft.text, COPIED_RUN)):
        return len(runs & word_runs(draft.given, COPIED_RUN)) > COPIED_SHARE * len(runs)
    return normalised(draft.given) == normalised(draft.text)


def _is_near_copy(draft: Draft) -> bool:
    first, second = normalised(draft.given), normalised(draft.text)
    if not first or not is_near_copy(first, second):
        return False
    # A number or a negation that changes makes the best hard negatives.
    return draft.score >= LOW_SCORE or not changes_meaning(first, second)


def _is_fragment(draft: Draft) -> bool:
    text = draft.text.strip()
    return bool(not TERMINAL.search(text) and OPEN_END.search(text) and not OPEN_END.search(draft.given.strip()))


ALL: Mapping[str, Filter] = {
    # The sentence was cut off by the token limit.
    "unclosed": lambda draft: draft.end == "length",
    # A line break came before the closing quote.
    "line_break": lambda draft: draft.end == "line_break",
    # The quote that ended it opened a quotation inside the sentence.
    "inner_quote": lambda draft: draft.end == "inner_quote",
    # Blank, too long, or with control characters or broken characters: it can't be a sentence of a pair.
    "unreadable": _unreadable,
    # Fewer than two letters or digits.
    "too_short": lambda draft: sum(character.isalnum() for character in draft.text) < 2,
    # A special token of some model, or a mark of its chat format.
    "special_token": partial(_has, SPECIAL_TOKEN),
    # The teacher repeats the prompt's own words instead of writing.
    "echo": _is_echo,
    # The teacher speaks to whoever asked: "Sure, here is a sentence"; a query speaks of its passage: "this text".
    "meta_text": lambda draft: _has(META_TEXT, draft) or (draft.is_query and bool(META_QUERY.search(draft.text))),
    # An instruct model talks about itself instead of writing.
    "refusal": partial(_has, REFUSAL),
    # The same words again and again.
    "repetition": lambda draft: has_repetition(draft.text) and not has_repetition(draft.given),
    # It ends where it can't end: on "the", "called", a comma, an open bracket.
    "fragment": _is_fragment,
    # A sentence of the prompt's exemplars again, or five words in a row of one.
    "exemplar": _is_of_an_exemplar,
    # Another script than sentence 1's.
    "script": _is_in_another_script,
    # Sentence 1 again, to the letter (the original's `remove_identical_pairs`).
    "identical": lambda draft: draft.text == draft.given,
    # Sentence 1 again, but for case, punctuation and white space: no label learns from it. Of a query: most of its
    # words stand in a row in its passage.
    "copy": _is_copy,
    # Sentence 1 again, but for articles or a letter or two. Below score 0.5 a changed number or negation may stay.
    "near_copy": _is_near_copy,
}
"""By name, in the order in which they are asked."""
ALWAYS = ("unclosed", "line_break", "unreadable")
"""What these throw away can't be a sentence of a pair at all."""

OF_A_SENTENCE1 = ("repeat", "label_conflict")
"""Reasons that need the other sentences written for the same sentence 1: the generator looks for them."""


OF_A_CORPUS = ("round_trip", "vague")
"""Reasons that need all passages: the generator looks for them."""
OF_A_JOB = ("near_duplicate",)
"""Reasons that need the job's other queries: they are looked for in the order in which queries are recorded."""


def reject(draft: Draft, names: Iterable[str] = tuple(ALL)) -> str | None:
    """The name of the first filter that throws the sentence away; None if it may stay."""
    enabled = {*names, *ALWAYS}
    return next((name for name, rejects in ALL.items() if name in enabled and rejects(draft)), None)
