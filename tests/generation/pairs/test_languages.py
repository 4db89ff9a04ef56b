"""Which language a job is in, and which ones a teacher is known to write."""

from pathlib import Path

import pytest

from services.generation.pairs.languages import detect, language_warning, teacher_languages
from services.generation.pairs.plan import Plan
from services.generation.pairs.tasks import load_all_tasks

ENGLISH = ["The load balancer drops connections.", "Pods are evicted once the disk is full."]
HINDI = ["पानी बहुत ठंडा है।", "किताब मेज पर रखी हुई है।"]


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["Der Server ist seit heute Morgen ausgefallen.", "Der Mieter muss drei Monate vorher kündigen."], "de"),
        (ENGLISH, "en"),
        (HINDI, "hi"),
        (["word1 word2.", "kubectl get pods -n kube-system"], None),
        (["12345", "?!"], None),
    ],
)
def test_the_language_of_texts_together(texts: list[str], language: str | None) -> None:
    assert detect(texts) == language


def test_built_in_tasks_need_no_warning() -> None:
    tasks = load_all_tasks(None)
    for name, task in tasks.items():
        given = {"inputs": ENGLISH} if task.writes_queries else {"num_inputs": 3}
        plan = Plan.model_validate({"task": name, **given}).resolve(tasks)
        assert language_warning(plan, frozenset({"en"}), "default") is None
    hindi = Plan(inputs=HINDI).resolve(tasks)
    assert "given sentences are in 'hi'" in str(language_warning(hindi, frozenset({"en"}), "default"))
    assert language_warning(hindi, frozenset({"hi"}), "x") is None


def test_what_a_teacher_is_known_to_write(tmp_path: Path) -> None:
    assert teacher_languages(None, "default") == {"en"}
    assert teacher_languages("de, FR", "default") == {"de", "fr"}
    assert teacher_languages(None, str(tmp_path)) == {"en"}
    (tmp_path / "README.md").write_text("---\nlanguage:\n- de\n- en\n---\n# A model\n")
    assert teacher_languages(None, str(tmp_path)) == {"de", "en"}
    (tmp_path / "README.md").write_text("---\nlanguage: fr\n---\n")
    assert teacher_languages(None, str(tmp_path)) == {"fr"}
    (tmp_path / "README.md").write_text("---\nlanguage: [de\n---\n")
    assert teacher_languages(None, str(tmp_path)) == {"en"}
    assert teacher_languages(None, "some/hub-id-that-is-not-cached") == {"en"}
