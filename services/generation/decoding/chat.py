"""Chat prompts, rendered by the teacher's own template."""

from collections.abc import Sequence
from typing import Any

from services.generation.decoding.base import NoChatTemplate, Turn


def render_chat(tokenizer: Any, turns: Sequence[Turn]) -> str:
    """The text after which the teacher goes on writing the last turn, which is the assistant's.

    Raises `NoChatTemplate`.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise NoChatTemplate("the teacher has no chat template: it is a base model; use the prompt form `plain`")
    text: str = tokenizer.apply_chat_template(list(turns), tokenize=False, continue_final_message=True)
    return text
