"""Passages: whole, in bounds, with their headings, and always the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.documents.cutting import Cutter
from services.generation.documents.texts import CONTROLS, Text
from shared.documents import Passage
from shared.pairs import MAX_SENTENCE_CHARS
from tests.support.tokenizers import word_tokenizer

CUTTER = Cutter(word_tokenizer(), size=32)
GUIDE = """# Hotel guide

Welcome to the house.

## Pool

The pool is open from eight to ten.
Towels are free.

```
# no heading
```

Breakfast
---------

## Empty

"""


def passages(cutter: Cutter, text: Text) -> list[Passage]:
    cut = cutter.cut(text)
    assert cut is not None
    return cut.document.passages


def test_a_short_text_is_one_passage_in_one_line() -> None:
    cut = CUTTER.cut(Text("  The pool\nis  closed.\n", id="a", title="House  rules", url="http://x", source="a.txt"))
    assert cut is not None
    assert (cut.document.id, cut.document.title, cut.document.url) == ("a", "House rules", "http://x")
    assert cut.document.passages == [Passage(title="House rules", text="The pool is closed.", start=2, end=22)]
    assert cut.tokens == [6]


def test_a_text_without_an_id_has_its_hash() -> None:
    cut = CUTTER.cut(Text("The pool is closed."))
    assert cut is not None
    assert cut.document.id == cut.document.hash


def test_markdown_is_cut_at_headings_which_become_titles() -> None:
    found = passages(CUTTER, Text(GUIDE, is_markdown=True))
    assert [one.title for one in found] == ["Hotel guide", "Hotel guide: Pool"]
    assert found[0].text == "Welcome to the house."
    assert found[1].text.endswith("Towels are free. ``` # no heading ```")
    assert GUIDE[found[1].start : found[1].end].startswith("The pool is open")
    titled = passages(CUTTER, Text(GUIDE, title="House", is_markdown=True))
    assert [one.title for one in titled] == ["House: Hotel guide", "House: Pool"]


def test_a_text_of_headings_alone_is_kept() -> None:
    assert [one.text for one in passages(CUTTER, Text("# One\n\n## Two\n", is_markdown=True))] == ["# One ## Two"]


def test_long_texts_are_cut_at_sentences_within_the_size() -> None:
    sentences = [f"Room {number} has a bed, a chair and a window to the yard." for number in range(40)]
    cut = CUTTER.cut(Text(" ".join(sentences), title="Rooms"))
    assert cut is not None
    found = cut.document.passages
    assert max(cut.tokens) <= 32
    assert len(found) > 10
    assert all(one.text.startswith("Room") and one.text.endswith("yard.") for one in found)
    assert " ".join(one.text for one in found) == " ".join(sentences)
    assert cut.tokens == [len(one.content.split()) for one in found]


def test_neighbours_share_as_much_as_was_asked_for() -> None:
    sentences = " ".join(f"Room {number} has a bed." for number in range(60))
    found = passages(Cutter(word_tokenizer(), size=32, overlap=12), Text(sentences))
    apart = passages(CUTTER, Text(sentences))
    assert len(found) > len(apart)
    assert all(after.start < before.end for before, after in pairwise(found))
    assert all(after.start >= before.end for before, after in pairwise(apart))


@pytest.mark.parametrize("text", ["x" * 5000, "word " * 30_000, "-" * 3000 + "\n" + "字" * 5000, "a\n" * 3000])
def test_what_has_no_sentences_is_cut_all_the_same(text: str) -> None:
    found = passages(CUTTER, Text(text))
    assert all(len(one.content) <= MAX_SENTENCE_CHARS for one in found)
    assert "".join(one.text for one in found).replace(" ", "").strip("-") == "".join(text.split()).strip("-")


def test_what_a_title_leaves_no_room_for_goes_without_it() -> None:
    found = passages(CUTTER, Text("The pool is closed.", title="a " * 20))
    assert [one.title for one in found] == [""]


@given(st.text(max_size=600), st.booleans())
def test_every_passage_is_where_it_says_and_nothing_is_lost(text: str, is_markdown: bool) -> None:
    text = CONTROLS.sub(" ", text)
    cut = CUTTER.cut(Text(text, is_markdown=is_markdown))
    if cut is None:
        assert not any(map(str.isalnum, text))
        return
    for one in cut.document.passages:
        assert " ".join(text[one.start : one.end].split()) == one.text
    if not is_markdown:
        kept = filter(str.isalnum, "".join(one.text for one in cut.document.passages))
        assert list(kept) == list(filter(str.isalnum, text))
    assert CUTTER.cut(Text(text, is_markdown=is_markdown)) == cut
