"""Makes the engine that the settings name, and starts it."""

import asyncio
import logging

from pydantic import ValidationError

from services.generation.decoding.base import Engine
from services.generation.decoding.transformers_engine import TransformersEngine
from services.generation.decoding.vllm.engine import VllmEngine
from services.generation.settings import GenerationSettings
from shared import teacher
from shared.errors import Fatal, first_line
from shared.process import disable_openmp_spinning
from shared.settings import Settings

log = logging.getLogger(__name__)


async def make_engine(common: Settings, own: GenerationSettings) -> Engine:
    """The engine, not started. Raises `Fatal` for a teacher that isn't there."""
    disable_openmp_spinning()  # before either engine imports torch
    model = await asyncio.to_thread(teacher.locate, common.teacher, common.cache_dir)
    return VllmEngine(model, own) if own.engine == "vllm" else TransformersEngine(model, own)


async def start_engine(engine: Engine) -> None:
    """Load the model. Raises `Fatal`, whatever the library raises."""
    try:
        await engine.start()
    except Exception as error:
        log.debug("engine start", exc_info=True)
        # vLLM raises pydantic's errors, whose first line is no help.
        reason = error.errors()[0]["msg"][:300] if isinstance(error, ValidationError) else first_line(error)
        hint = "see PAIRWRIGHT_TEACHER and PAIRWRIGHT_GENERATION_*; PAIRWRIGHT_LOG_LEVEL=DEBUG shows where"
        raise Fatal(f"the engine can't start: {reason} ({hint})") from None
