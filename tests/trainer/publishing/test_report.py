"""The report: both forms of it, with sentences that look like markup."""

from pathlib import Path
from typing import Any

from tests.support.pairs import make_pairs, plan, records
from tests.support.trainer_homes import Home

MARKUP = 'a <b>noun7</b> | *sees* `the` [noun1](x) & &lt; \\ <script>alert("1")</script> ![](loss.png)'
SHOWN = (
    "a &lt;b&gt;noun7&lt;/b&gt; | *sees* `the` [noun1](x) &amp; &amp;lt; \\"
    " &lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; ![](loss.png)"
)


def test_markup_in_a_sentence_stays_text_and_pictures_are_inside(home: Home, static_student: Path, sts: Path) -> None:
    pairs = [pair.model_copy(update={"sentence2": f"{MARKUP} {n}"}) for n, pair in enumerate(make_pairs(300))]
    home.dataset.add(records(pairs))
    settings: dict[str, Any] = {"sts": sts, "max_steps": 20}
    manifest = home.published(home.run(plan(home.dataset, 1, static_student), **settings))
    page = (home.store.path(manifest.id) / "report" / "report.html").read_text()
    assert f"{SHOWN} " in page
    assert "<b>" not in page
    assert "<script" not in page
    assert page.count('<img src="data:image/png;base64,') == 5
    assert "<h1>Round 1 of <code>default</code></h1>" in page
    assert page.count("<table>") >= 5
    assert 'class="rejected"' not in page
