"""The result of a work item: what its JSON keeps, and what a stream's answers make of it."""

import json
from collections import Counter

from services.generation.pairs.work_item import WorkItemResult, public_pairs
from tests.generation.jobs.test_progress import pair_record


def result() -> WorkItemResult:
    pairs = {f"{label}/{number}": pair_record(label, number) for label in ("0", "1") for number in range(2)}
    return WorkItemResult(sentence1="One.", pairs=pairs, rejected=Counter(copy=1), samples=5)


def test_json_keeps_everything_but_what_all_pairs_of_a_job_share() -> None:
    text = result().to_json()
    assert list(json.loads(text)["pairs"]) == ["0/0", "0/1", "1/0", "1/1"]
    read = WorkItemResult.model_validate_json(text)
    assert (read.to_json(), read.accepted, public_pairs([read])) == (text, result().accepted, public_pairs([result()]))
    assert read.pairs["0/1"].provenance.seed == result().pairs["0/1"].provenance.seed
    assert {record.provenance.job for record in read.pairs.values()} == {""}


def test_answers_tell_accepted_lost_and_never_offered_apart() -> None:
    answered = result().with_answers(iter([True, False, None, True]))
    assert list(answered.pairs) == ["0/0", "1/1"]
    assert answered.lost == {"0": 1}
    assert answered.rejected == {"copy": 1, "duplicate": 1}
    assert result().rejected == {"copy": 1}


def test_surplus_is_counted_by_label() -> None:
    kept = result().without_surplus({"0": 1, "1": 0}.__getitem__)
    assert list(kept.pairs) == ["0/0"]
    assert kept.rejected == {"copy": 1, "surplus": 3}


def test_results_of_the_version_before_are_read() -> None:
    row = {"sentence1": "One.", "sentence2": "1 0", "score": 1.0, "label": "1", "seed": 7, "slot": "1/0"}
    old = {"sentence1": "One.", "pairs": [row], "rejected": {"copy": 2}, "samples": 3, "lost": {"0": 1}}
    read = WorkItemResult.model_validate_json(json.dumps(old))
    assert public_pairs([read]) == [{"sentence1": "One.", "sentence2": "1 0", "score": 1.0, "label": "1"}]
    assert (read.accepted, read.lost, read.samples) == ({"1": 1}, {"0": 1}, 3)
    assert read.pairs["1/0"].provenance.seed == 7
