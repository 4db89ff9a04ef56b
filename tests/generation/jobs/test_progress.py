"""What a job still needs: the same whatever the order in which items were written, and it always ends."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.jobs.progress import JobProgress
from services.generation.pairs.plan import Plan, ResolvedPlan
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import WorkItem, WorkItemResult
from shared.pairs import Pair, PairRecord, Provenance

TASKS = load_all_tasks(None)


def pair_record(label: str, number: int) -> PairRecord:
    pair = Pair(sentence1="One.", sentence2=f"{label} {number}", score=1)
    return PairRecord(
        pair=pair, provenance=Provenance(dataset="d", task="sts", label=label, job="j", teacher="t", seed=1)
    )


def write(item: WorkItem, rates: dict[str, float], seed: int) -> WorkItemResult:
    """A result as a teacher and a stream of these rates would have it; depends on the item and the seed alone."""
    chance = random.Random(f"{seed}/{item.number}/{item.pass_number}")
    result = WorkItemResult()
    if chance.random() < rates["no_sentence1"]:
        result.rejected["too_short"] = item.attempts
        return result
    result.sentence1 = item.given or f"Sentence {item.number}."
    for label, count in item.wants.items():
        for number in range(count):
            for _ in range(item.attempts):
                result.samples += 1
                if chance.random() >= rates["rejected"]:
                    if chance.random() < rates["lost"]:
                        result.lost[label] += 1
                        result.rejected["duplicate"] += 1
                    else:
                        result.pairs[f"{label}/{number}"] = pair_record(label, number)
                    break
                result.rejected["copy"] += 1
    return result


def run(plan: ResolvedPlan, rates: dict[str, float], seed: int) -> tuple[JobProgress, list[WorkItemResult]]:
    """A whole job."""
    progress, results = JobProgress(plan), []
    while not progress.done:
        item = progress.work_item(progress.recorded)
        assert item.index == progress.recorded
        result = progress.acceptable(write(item, rates, seed))
        results.append(result)
        progress.record(result)
        assert progress.recorded < 20_000, "the job doesn't end"
    return progress, results


share = st.floats(0, 1)
few, small = st.integers(1, 6), st.integers(1, 4)
plans = st.one_of(
    st.fixed_dictionaries({"num_inputs": few, "pairs_per_label": few, "attempts": few}),
    st.fixed_dictionaries({"inputs": st.sampled_from([["One."], ["One.", "Two.", "Three."]]), "attempts": small}),
    st.fixed_dictionaries({"pairs": st.integers(1, 40), "pairs_per_label": small, "attempts": small}),
    st.fixed_dictionaries({"pairs": st.integers(1, 20), "inputs": st.just(["One.", "Two."])}),
)


@settings(max_examples=300)
@given(plans, share, share, st.floats(0, 1), st.integers(0, 9))
def test_a_job_always_ends_with_counts_that_add_up(
    fields: dict[str, Any], rejected: float, lost: float, no_sentence1: float, seed: int
) -> None:
    plan = Plan.model_validate(fields).resolve(TASKS)
    progress, results = run(plan, {"rejected": rejected, "lost": lost, "no_sentence1": no_sentence1}, seed)
    assert progress.accepted == sum((result.accepted for result in results), Counter())
    assert progress.accepted.total() <= progress.requested
    assert (progress.outcome == "complete") == (progress.accepted.total() == progress.requested)
    if plan.pairs is not None:
        assert all(count <= plan.pairs for count in progress.accepted.values())
    else:
        # A pair that was lost to the dataset gets another turn, each time with one attempt fewer.
        assert progress.samples <= plan.attempts * (plan.attempts + 1) // 2 * progress.requested
    # Another account that enters the same results is the same: what a restart does.
    again = JobProgress(plan)
    for result in results:
        again.record(WorkItemResult.model_validate_json(result.model_dump_json()))
    assert (again.done, again.accepted, again.rejected, again.samples) == (
        True,
        progress.accepted,
        progress.rejected,
        progress.samples,
    )


@pytest.mark.slow
@given(st.integers(1, 200), st.floats(0, 0.5))
def test_wanted_pairs_come_if_the_budget_allows(pairs: int, rejected: float) -> None:
    plan = Plan(pairs=pairs, attempts=5).resolve(TASKS)
    progress, _ = run(plan, {"rejected": rejected, "lost": 0.0, "no_sentence1": 0.0}, seed=1)
    assert progress.outcome == "complete"
    assert set(progress.accepted.values()) == {pairs}


def test_a_budget_that_is_used_up_ends_the_job() -> None:
    plan = Plan(pairs=50, attempts=2).resolve(TASKS)
    progress, _ = run(plan, {"rejected": 1.0, "lost": 0.0, "no_sentence1": 0.0}, seed=1)
    assert progress.outcome == "exhausted"
    assert progress.samples >= 2 * 150
    assert progress.rejected["copy"] == progress.samples


def test_a_pass_depends_on_the_results_alone_not_on_who_asks_when() -> None:
    plan = Plan(pairs=60).resolve(TASKS)
    rates = {"rejected": 0.4, "lost": 0.2, "no_sentence1": 0.1}
    progress, results = run(plan, rates, seed=3)
    late = JobProgress(plan)
    for index, result in enumerate(results):
        # Asking for items ahead, as several writers do at one time, changes nothing.
        for ahead in range(index, late.total):
            late.work_item(ahead)
        assert late.work_item(index) == progress.work_item(index)
        late.record(result)
    assert late.total == progress.total
