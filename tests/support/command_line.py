"""The trainer's command line in the test's own process: what it prints, or the one line with which it ends."""

from pathlib import Path

from typer.testing import CliRunner

from services.trainer.commands.cli import command_line
from shared.errors import Fatal
from shared.settings import Settings


def _no_worker(_settings: Settings, _once: bool) -> None:
    raise AssertionError("a command was asked for, not the worker")


def run_command(home: Path, *arguments: object) -> str:
    """What a command prints. Raises what it raises, `Fatal` among others; it may have printed nothing then."""
    runner = CliRunner(env={"PAIRWRIGHT_HOME": str(home)})
    done = runner.invoke(command_line(_no_worker), [str(argument) for argument in arguments])
    if done.exception is not None:
        assert done.stdout == ""
        raise done.exception
    return done.stdout


def failure(home: Path, *arguments: object) -> str:
    """The message of a command that must not work."""
    try:
        printed = run_command(home, *arguments)
    except Fatal as fatal:
        return str(fatal)
    raise AssertionError(f"it worked: {printed}")
