"""Documents and passages: what is valid, and what makes two of them the same."""

import pytest
from pydantic import ValidationError

from shared.documents import Passage
from shared.pairs import MAX_SENTENCE_CHARS, Pair
from tests.support.documents import make_document


def test_a_passage_s_content_has_its_title_first_and_is_a_sentence_of_a_pair() -> None:
    passage = Passage(title="Hotels", text="The pool is closed.", start=7, end=26)
    assert passage.content == "Hotels The pool is closed."
    assert Passage(text="The pool is closed.", start=7, end=26).content == "The pool is closed."
    assert Pair(sentence1="when is the pool open", sentence2=passage.content, score=1).sentence2 == passage.content


@pytest.mark.parametrize(
    ("title", "text", "end", "error"),
    [
        ("", " ", 5, "must not be blank"),
        ("Hotels", "", 5, "must not be blank"),
        ("", "two\nlines", 9, "one line"),
        ("a\tb", "text", 4, "one line"),
        ("t" * 1000, "x" * MAX_SENTENCE_CHARS, 9, "at most 2000"),
        ("", "text", 0, "greater than start"),
    ],
)
def test_what_is_no_passage(title: str, text: str, end: int, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        Passage(title=title, text=text, start=0, end=end)


def test_two_documents_are_the_same_if_their_text_and_cut_are() -> None:
    whole = make_document("a", "One. Two.")
    assert whole.digest == make_document("a", "One. Two.").digest
    others = [make_document("b", "One. Two."), make_document("a", "One.", "Two."), make_document("a", "One. Two!")]
    assert len({one.digest for one in [whole, *others]}) == 4
    assert whole.passages[0].content_hash == others[0].passages[0].content_hash
