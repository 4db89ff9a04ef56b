"""What the commands share: groups of them, the settings, options."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shared.process import configure_logging
from shared.settings import Settings, load

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command. Whoever read its output may have read enough."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os._exit(0)


def group(about: str) -> typer.Typer:
    """A group of commands. Errors and help are plain lines."""
    plain: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
    return typer.Typer(cls=_Commands, help=about, **plain)


def configured() -> Settings:
    """The settings, and logging as they say. Raises `Fatal`."""
    settings = load(Settings)
    configure_logging(settings.log_level, settings.log_format, "trainer")
    return settings
