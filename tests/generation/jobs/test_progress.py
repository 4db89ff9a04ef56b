"""What a job still needs: the same whatever the order in which units were made, and it always ends."""

import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.jobs.progress import JobProgress, WorkItem
from services.generation.jobs.records import Record, without_surplus
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import BUILT_IN, load_tasks

TASKS = load_tasks([BUILT_IN])


def made(assignment: WorkItem, rates: dict[str, float], seed: int) -> Record:
    """A unit as a teacher and a stream of these rates would have it; depends on the assignment and the seed alone."""
    chance = random.Random(f"{seed}/{assignment.number}/{assignment.wave}")
    record: Record = {"sentence1": None, "pairs": [], "rejected": {}, "samples": 0, "lost": {}}
    if chance.random() < rates["no_sentence1"]:
        return record | {"rejected": {"too_short": assignment.attempts}}
    record["sentence1"] = assignment.sentence1 or f"Sentence {assignment.number}."
    rejected: Counter[str] = Counter()
    for label, count in assignment.wants.items():
        for nth in range(count):
            for _ in range(assignment.attempts):
                record["samples"] += 1
                if chance.random() >= rates["rejected"]:
                    if chance.random() < rates["lost"]:
                        record["lost"][label] = record["lost"].get(label, 0) + 1
                        rejected["duplicate"] += 1
                    else:
                        pair = {"sentence1": record["sentence1"], "sentence2": f"{label} {nth}", "label": label}
                        record["pairs"].append(pair)
                    break
                rejected["copy"] += 1
    return record | {"rejected": dict(rejected)}


def run(plan: Plan, rates: dict[str, float], seed: int) -> tuple[JobProgress, list[Record]]:
    """A whole job."""
    ledger, records = JobProgress(plan), []
    while not ledger.done:
        assignment = ledger.assignment(ledger.recorded)
        assert assignment.index == ledger.recorded
        record = without_surplus(made(assignment, rates, seed), ledger.room)
        records.append(record)
        ledger.record(record)
        assert ledger.recorded < 20_000, "the job doesn't end"
    return ledger, records


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
    plan = Plan.model_validate(fields).written_out(TASKS)
    ledger, records = run(plan, {"rejected": rejected, "lost": lost, "no_sentence1": no_sentence1}, seed)
    assert ledger.accepted == Counter(pair["label"] for record in records for pair in record["pairs"])
    assert ledger.accepted.total() <= ledger.requested
    assert (ledger.outcome == "complete") == (ledger.accepted.total() == ledger.requested)
    if plan.pairs is not None:
        assert all(count <= plan.pairs for count in ledger.accepted.values())
    else:
        # A pair that was lost to the dataset gets another turn, each time with one attempt fewer.
        assert ledger.samples <= plan.attempts * (plan.attempts + 1) // 2 * ledger.requested
    # Another ledger that is told the same records knows the same: what a restart does.
    again = JobProgress(plan)
    for record in records:
        again.record(record)
    assert (again.done, again.accepted, again.rejected, again.samples) == (
        True,
        ledger.accepted,
        ledger.rejected,
        ledger.samples,
    )


@given(st.integers(1, 200), st.floats(0, 0.5))
def test_wanted_pairs_come_if_the_budget_allows(pairs: int, rejected: float) -> None:
    plan = Plan(pairs=pairs, attempts=5).written_out(TASKS)
    ledger, _ = run(plan, {"rejected": rejected, "lost": 0.0, "no_sentence1": 0.0}, seed=1)
    assert ledger.outcome == "complete"
    assert set(ledger.accepted.values()) == {pairs}


def test_a_budget_that_is_used_up_ends_the_job() -> None:
    plan = Plan(pairs=50, attempts=2).written_out(TASKS)
    ledger, _ = run(plan, {"rejected": 1.0, "lost": 0.0, "no_sentence1": 0.0}, seed=1)
    assert ledger.outcome == "exhausted"
    assert ledger.samples >= 2 * 150
    assert ledger.rejected["copy"] == ledger.samples


def test_a_wave_depends_on_the_records_alone_not_on_who_asks_when() -> None:
    plan = Plan(pairs=60).written_out(TASKS)
    rates = {"rejected": 0.4, "lost": 0.2, "no_sentence1": 0.1}
    ledger, records = run(plan, rates, seed=3)
    late = JobProgress(plan)
    for index, record in enumerate(records):
        # Asking for units ahead, as many services do at one time, changes nothing.
        for ahead in range(index, late.total):
            late.assignment(ahead)
        assert late.assignment(index) == ledger.assignment(index)
        late.record(record)
    assert late.total == ledger.total
