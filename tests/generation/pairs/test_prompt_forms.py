"""In which form a prompt is asked: by the plan, and for `auto` by what the teacher can."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.jobs.progress import JobProgress
from services.generation.pairs.generator import Job, PairGenerator
from services.generation.pairs.plan import Plan
from services.generation.pairs.prompts import Form
from services.generation.pairs.tasks import load_all_tasks
from services.generation.pairs.work_item import WorkItemResult
from services.generation.settings import GenerationSettings
from tests.support.tiny_teacher import make_tiny_teacher

pytestmark = pytest.mark.anyio

TEMPLATE = "{% for message in messages %}{{ message['role'] }} word1 {{ message['content'] }}\n{% endfor %}"


async def first_result(engine: TransformersEngine, form: Form, inputs: list[str] | None) -> WorkItemResult:
    sentences = {"inputs": inputs} if inputs else {"num_inputs": 1}
    plan = Plan.model_validate({"prompt_form": form, "filters": [], "attempts": 6, "seed": 5} | sentences)
    job = Job(plan.resolve(load_all_tasks(None)))
    return await PairGenerator(engine).write(job, JobProgress(job.plan).work_item(0))


@pytest.mark.parametrize("template", [True, False])
async def test_auto_asks_for_second_sentences_as_the_teacher_can(tmp_path: Path, template: bool) -> None:
    teacher = make_tiny_teacher(tmp_path)
    if template:
        tokenizer = AutoTokenizer.from_pretrained(teacher)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(teacher)
    engine = TransformersEngine(str(teacher), GenerationSettings(dtype="float32", max_model_len=512))
    await engine.start()
    inputs = ["word3 word4 word5"]
    auto, plain = [await first_result(engine, form, inputs) for form in ("auto", "plain")]
    assert plain.pairs
    if template:
        assert auto == await first_result(engine, "chat", inputs) != plain
    else:
        assert auto == plain
    # First sentences are asked for in plain text in either case.
    assert (await first_result(engine, "auto", None)).sentence1 == (await first_result(engine, "plain", None)).sentence1
    engine.stop()
