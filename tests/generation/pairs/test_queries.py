"""Queries for passages: which way round prompts and pairs are, which kind is drawn, and what a corpus rejects."""

import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.generation.commands.options import make_plan, parse
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.corpus import Corpus, Standing
from services.generation.pairs.filters import Draft, reject, words_of_exemplars
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import InvalidPlan, Plan, ResolvedPlan
from services.generation.pairs.prompts import lanes_for
from services.generation.pairs.tasks import TaskSpec, load_all_tasks
from services.generation.pairs.work_item import WorkItemResult, public_pairs, public_rejected
from services.generation.settings import GenerationSettings
from shared.errors import Fatal
from tests.support.documents import retrieval
from tests.support.tiny_teacher import make_tiny_teacher

TASKS = load_all_tasks(None)
RETRIEVAL = TASKS["retrieval"]
PASSAGES = [
    "The ferry to the island leaves at nine and takes bicycles on deck.",
    "The ferry to the mainland leaves at noon and takes no bicycles.",
    "A lost ticket is replaced at the counter for three crowns.",
    "Seals rest on the sandbank when the tide is low.",
]


def plan(**fields: object) -> ResolvedPlan:
    return Plan.model_validate({"task": "retrieval", "inputs": PASSAGES, **fields}).resolve(TASKS)


def test_a_prompt_gives_the_passage_and_asks_for_the_query() -> None:
    label = RETRIEVAL.labels["keywords"]
    own, neighbour = lanes_for(RETRIEVAL, "keywords", PASSAGES[0], [1], PASSAGES[1])
    query, passage = label.exemplars[1]
    assert own.text.endswith(f'\nPassage: "{PASSAGES[0]}"\nKeywords: "')
    assert f'\nPassage: "{passage}"\nKeywords: "{query}"\n\n' in own.text
    # The counter-lane differs in the passage alone.
    assert neighbour.text == own.text.replace(PASSAGES[0], PASSAGES[1])
    assert own.bare_instruction == label.instruction.replace("<X2>", "")


def test_an_instruction_gives_one_of_the_two_sentences() -> None:
    both = {"score": 1, "instruction": 'Passage: "<X2>"\nFirst: "<X1>"\nQuery: "'}
    with pytest.raises(ValidationError, match="must hold <X1> exactly once"):
        TaskSpec.model_validate({"task_name": "t", "labels": {"a": both}})
    labels = {"a": {"score": 1, "instruction": '"<X2>"\n"'}, "b": {"score": 1, "instruction": '"<X1>"\n"'}}
    with pytest.raises(ValidationError, match="either every instruction"):
        TaskSpec.model_validate({"task_name": "t", "labels": labels})


def test_a_passage_gets_one_kind_in_turn_or_each_that_is_named() -> None:
    drawn = JobProgress(plan(inputs=[f"Passage {number}." for number in range(40)]))
    items = [drawn.work_item(index) for index in range(40)]
    assert all(len(item.wants) == 1 for item in items)
    assert set(Counter(label for item in items for label in item.wants).values()) == {10}
    assert drawn.requested == 40
    named = JobProgress(plan(labels=["claim", "title"]))
    assert (named.work_item(3).wants, named.requested) == ({"claim": 1, "title": 1}, 8)
    assert JobProgress(plan(pairs=3)).requested == 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": None, "num_inputs": 3}, "inputs: task 'retrieval' writes for passages"),
        ({"inputs": None, "pairs": 3}, "inputs: task 'retrieval' writes for passages"),
        ({"task": "sts", "inputs": None, "queries": 3}, "queries: task 'sts' writes no queries"),
        ({"task": "sts", "contrast": True}, "contrast: task 'sts' has no passages"),
    ],
)
def test_plans_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        plan(**fields)


def test_a_corpus_knows_neighbours_and_whose_passage_a_query_is() -> None:
    corpus = Corpus([*PASSAGES, PASSAGES[0]])
    assert len(corpus.passages) == 4
    assert corpus.neighbour(PASSAGES[0]) == PASSAGES[1]
    assert corpus.standing("lost ticket", PASSAGES[2]) == Standing(0, 0)
    assert corpus.standing("lost ticket", PASSAGES[3]).better == 1
    # Two passages hold "ferry" and "bicycles" alike; none holds words that nobody wrote.
    assert corpus.standing("bicycles on the ferry", PASSAGES[1]).better == 1
    assert corpus.standing("ferry", PASSAGES[1]) == Standing(0, 1)
    assert corpus.standing("zeppelin", PASSAGES[0]) == Standing(0, 3)
    assert Corpus(PASSAGES[2:3]).neighbour(PASSAGES[2]) is None


def test_passages_are_drawn_in_turns_and_stay_in_order_when_one_goes() -> None:
    corpus, smaller = Corpus(PASSAGES), Corpus(PASSAGES[:2] + PASSAGES[3:])
    first, second = [[corpus.drawn(5, number) for number in range(start, start + 4)] for start in (0, 4)]
    assert sorted(first) == sorted(second) == sorted(PASSAGES)
    assert first != second or corpus.drawn(6, 0) != first[0]
    assert len({corpus.drawn(seed, 0) for seed in range(20)}) > 1
    assert corpus.drawn(5, 0) == first[0], "other seeds between change nothing"
    assert [smaller.drawn(5, number) for number in range(3)] == [text for text in first if text != PASSAGES[2]]


def record(query: str, passage: str) -> WorkItemResult:
    return WorkItemResult(sentence2=passage, pairs={"question/0": retrieval(query, passage)})


def test_a_query_of_the_same_words_is_not_accepted_again() -> None:
    progress = JobProgress(plan())
    progress.record(progress.acceptable(record("When does the ferry leave?", PASSAGES[0])))
    again = progress.acceptable(record("the ferry: when does it leave", PASSAGES[1]))
    assert again.pairs
    again = progress.acceptable(record("a ferry does leave when", PASSAGES[1]))
    assert (again.pairs, again.rejected) == ({}, {"near_duplicate": 1})
    assert public_rejected([again])[0]["text"] == "a ferry does leave when"
    off = JobProgress(plan(filters=["copy"]))
    off.record(record("ferry", PASSAGES[0]))
    assert off.acceptable(record("ferry", PASSAGES[1])).pairs


def test_a_corpus_of_a_script_without_spaces_has_words() -> None:
    corpus = Corpus(["渡船九点从码头出发。", "丢失的车票可以在柜台补办。"])
    assert corpus.standing("车票丢失", corpus.passages[1]) == Standing(0, 0)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("when does the ferry to the island leave", None),
        ("ferry to the island bicycles", None),
        ("The ferry to the island leaves at nine", "copy"),
        ("What is the main idea of the passage?", "meta_text"),
        ("what did the authors of this study find about ferries", "meta_text"),
        ("results of the study of ferries", None),
        ("Where do ferries go, as described above?", "meta_text"),
    ],
)
def test_queries_are_filtered_as_queries(query: str, reason: str | None) -> None:
    passage = "In this paper: " + PASSAGES[0]
    assert reject(Draft(query, "quote", passage, is_query=True)) == reason
    assert reject(Draft(query, "quote", passage)) is None


def test_words_of_an_exemplar_are_known_from_those_of_the_passages() -> None:
    [lane] = lanes_for(RETRIEVAL, "claim", PASSAGES[2], [0, 3])
    draft = Draft("Vinegar removes the passengers of a ferry.", "quote", PASSAGES[2], prompt=lane, is_query=True)
    assert words_of_exemplars(draft) == {"vinegar", "removes", "passengers"}
    # What the own passage says is no evidence, and neither are short words.
    assert words_of_exemplars(Draft("a ticket in three days", "quote", PASSAGES[2], prompt=lane)) == set()
    corpus = Corpus([*PASSAGES, "Passengers wait on the pier."])
    assert [corpus.has_word(word) for word in ("vinegar", "passengers")] == [False, True]


async def written(engine: TransformersEngine, plan: ResolvedPlan, corpus: Corpus) -> list[WorkItemResult]:
    job, progress = Job(plan, dataset="d", corpus=corpus), JobProgress(plan)
    generator = PairGenerator(engine)
    return [await generator.write(job, progress.work_item(index)) for index in range(progress.total)]


@pytest.mark.anyio
async def test_a_query_is_sentence_1_and_contrast_changes_it(tmp_path: Path) -> None:
    engine = TransformersEngine(str(make_tiny_teacher(tmp_path)), GenerationSettings(dtype="float32"))
    await engine.start()
    passages = [f"word{number} word{number + 1} word{number + 50}" for number in range(0, 40, 2)]
    corpus = Corpus(passages)
    loose = {"inputs": passages, "attempts": 6, "filters": [], "seed": 3}
    plain = await written(engine, plan(**loose), corpus)
    pairs = public_pairs(plain)
    assert len(pairs) > 10
    assert {pair["sentence2"] for pair in pairs} <= set(passages)
    assert not {pair["sentence1"] for pair in pairs} & set(passages)
    assert {pair["label"] for pair in pairs} == set(RETRIEVAL.labels)
    assert await written(engine, plan(**loose), corpus) == plain
    other = [text + " word149" for text in passages]
    contrasted = await written(engine, plan(**loose, contrast=True), Corpus([*passages, *other]))
    assert public_pairs(contrasted) != pairs

    # Nonsense finds its passage by chance alone: with the corpus' filters most of it is thrown away, and can be seen.
    strict = await written(engine, plan(**loose | {"filters": ["round_trip", "vague"]}, round_trip_k=1), corpus)
    rejected = public_rejected(strict)
    assert {row["reason"] for row in rejected} >= {"round_trip", "vague"}
    assert {row["sentence2"] for row in rejected} <= set(passages)
    for pair in public_pairs(strict):
        assert sum(corpus.standing(pair["sentence1"], pair["sentence2"])) == 0
    engine.stop()


@pytest.mark.anyio
async def test_nothing_is_written_for_a_passage_that_is_gone(tmp_path: Path) -> None:
    generator = PairGenerator(TransformersEngine(str(tmp_path), GenerationSettings()))  # never started
    job, item = Job(plan(), corpus=Corpus(PASSAGES[1:])), JobProgress(plan()).work_item(0)
    result = await generator.write(job, item)
    assert (result.given, result.pairs, result.samples) == (None, {}, 0)


def test_inputs_of_queries_are_titles_and_texts(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    rows = [
        {"_id": "1", "title": "Ferry", "text": "Leaves at nine."},
        {"_id": "2", "title": "", "text": "Leaves at noon."},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["generate", "--inputs", str(file), "--out", str(tmp_path / "out.jsonl")]
    queries = make_plan(parse([*arguments, "--task", "retrieval", "--contrast"]), None)
    assert (queries.inputs, queries.contrast) == (["Ferry Leaves at nine.", "Leaves at noon."], True)
    assert make_plan(parse([*arguments, "--task", "sts"]), None).inputs == ["Leaves at nine.", "Leaves at noon."]
    file.write_text(json.dumps({"title": "Ferry", "text": "word " * 500}) + "\n")
    with pytest.raises(Fatal, match="line 1: must have at most 2000 characters, has 2505"):
        make_plan(parse([*arguments, "--task", "retrieval"]), None)
