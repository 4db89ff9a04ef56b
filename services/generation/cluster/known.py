"""Queries that are near duplicates of none before, past what fits in memory."""

from shared.known_texts import KnownTexts


class KnownWords(KnownTexts):
    """Sets of words instead of texts."""

    def __contains__(self, words: object) -> bool:
        return super().__contains__(_joined(words))

    def add(self, words: object) -> bool:
        return super().add(_joined(words))


def _joined(words: object) -> str:
    return "\x1f".join(sorted(words)) if isinstance(words, frozenset) else ""
