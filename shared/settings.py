"""The settings that every process reads, and the one way in which a wrong setting is reported."""

import argparse
import difflib
import logging
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.errors import Fatal
from shared.ports import PORTS
from shared.process import LogFormat

log = logging.getLogger(__name__)

DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
AnySettings = TypeVar("AnySettings", bound=BaseSettings)

PREFIX = "PAIRWRIGHT_"
NO_SETTINGS = frozenset(f"{PREFIX}{name}" for name in ("DEVICE", "URL", "API_KEY"))
"""Variables that set-up and the examples read."""
SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP)(_|$)")
"""Kubernetes and Docker set such variables for every service that they know, and its name may begin as ours do."""


MADE_STUDENTS = ("default", "compact", "teacher")
"""Students that are made from the teacher."""


def learns_teacher(student: str, teacher: str, static: bool) -> bool:
    """Whether a round brings a student nearer to its teacher on short texts: not to another than the default one.

    The teacher has nothing to learn from itself, and a static student that isn't made from it is not known to gain.
    """
    return teacher == "default" and student != "teacher" and (student in MADE_STUDENTS or not static)


class Settings(BaseSettings):
    """What every process reads, from environment variables that begin with `PAIRWRIGHT_`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    home: Path = Path(".pairwright")
    """Where this installation keeps its queue, datasets and versions."""
    cache: Path = Path("~/.cache/pairwright")
    """Where converted models are kept; may be deleted at any time."""
    redis_url: Annotated[str | None, Field(pattern=r"^(redis|rediss|unix)://.")] = None
    """A Redis >= 7.0 or Valkey >= 8. Without it, a private server is started in `home`."""
    dataset: DatasetName = "default"
    """Which dataset this installation generates, trains on and serves."""
    teacher: str = "default"
    """Any causal language model: a folder, a hub id, or `default` (SmolLM2-135M-Instruct)."""
    student: str = "default"
    """Any sentence-transformers model or encoder: a folder, a hub id, `default` (static, made from the teacher's token
    table; also `static`), `compact` (four small layers on those, for the default teacher) or `teacher` (its lower
    layers)."""
    api_keys: SecretStr = SecretStr("")
    """Bearer keys, separated by commas. Without any, the HTTP services ask for none."""
    trainer_url: Annotated[str, Field(pattern=r"^https?://.")] = f"http://127.0.0.1:{PORTS['trainer']}"
    """Where the trainer answers: the generation service reads its passages, and passes questions about documents on;
    the console asks it."""
    generation_url: Annotated[str, Field(pattern=r"^https?://.")] = f"http://127.0.0.1:{PORTS['generation']}"
    """Where the generation service answers: the console asks it."""
    embedding_url: Annotated[str, Field(pattern=r"^https?://.")] = f"http://127.0.0.1:{PORTS['embedding']}"
    """Where the embedding service answers: the console asks it."""
    keep_alive_seconds: Annotated[float, Field(gt=0, le=3600)] = 75.0
    """How long a connection without a request stays open. Longer than a load balancer's own limit, often 60."""
    log_level: Annotated[str, Field(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    secrets: Path | None = None
    """A folder of files, each named as a variable in small letters and holding its value; the environment wins."""
    require: str = ""
    """Variables that must be set, separated by commas: without them the start fails. Containers ask for Redis and
    the keys, because a queue of its own or an open port would only be noticed later."""
    log_format: LogFormat = "human"
    """`json` writes one object an event, with the ids of its request, job, round, version and trace."""

    @field_validator("student")
    @classmethod
    def _student(cls, value: str) -> str:
        return student_name(value)

    @property
    def queue_dir(self) -> Path:
        """The embedded queue's files."""
        return self.home.expanduser().resolve() / "queue"

    @property
    def dataset_dir(self) -> Path:
        """The collected pairs and the rounds' working files."""
        return self.home.expanduser().resolve() / "datasets" / self.dataset

    @property
    def models_dir(self) -> Path:
        """The published versions of this dataset's student."""
        return self.home.expanduser().resolve() / "models" / self.dataset

    @property
    def batches_dir(self) -> Path:
        """Files of texts that are embedded in the background, and their vectors."""
        return self.home.expanduser().resolve() / "batches" / self.dataset

    @property
    def cache_dir(self) -> Path:
        """`cache`, absolute."""
        return self.cache.expanduser().resolve()

    @property
    def service_urls(self) -> dict[str, str]:
        """Where the three services answer, by name."""
        return {"generation": self.generation_url, "embedding": self.embedding_url, "trainer": self.trainer_url}

    @property
    def keys(self) -> tuple[str, ...]:
        """The bearer keys, without blanks."""
        return tuple(key.strip() for key in self.api_keys.get_secret_value().split(",") if key.strip())


def student_name(name: str) -> str:
    """A student's name as it is kept: `static` is another one of `default`."""
    return "default" if name == "static" else name


def load(settings: type[AnySettings]) -> AnySettings:
    """The settings from the environment, and from the files in `secrets`; `RETIRED` names of variables still work.

    Raises `Fatal` with the first wrong, missing or unknown variable and what it must be; never with a value: it may be
    secret. Variables of another service are none of this one's business.
    """
    folder = os.environ.get(f"{PREFIX}SECRETS") or None
    if folder is not None and not Path(folder).is_dir():
        raise Fatal(f"{PREFIX}SECRETS: there is no folder {folder!r}")
    _rename_retired(getattr(settings, "RETIRED", {}), folder)
    _check_names(settings, folder)
    try:
        loaded = settings(_secrets_dir=folder)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = first["loc"][0] if first["loc"] else "*"  # a rule over several fields has no place of its own
        variable = f"{settings.model_config['env_prefix']}{field}".upper()
        raise Fatal(f"{variable}: {first['msg']}") from None
    except SettingsError as error:  # a value that pydantic-settings could not even read
        if isinstance(cause := error.__cause__, OSError):
            raise Fatal(f"{PREFIX}SECRETS: this user can't read {cause.filename}: {cause.strerror}") from None
        field = str(error).partition('"')[2].partition('"')[0]
        variable = f"{settings.model_config['env_prefix']}{field}".upper()
        raise Fatal(f"{variable}: must be JSON: {cause}") from None
    if isinstance(loaded, Settings):
        _check_required(loaded)
    return loaded


def _rename_retired(names: Mapping[str, str], secrets: str | None) -> None:
    """Give variables that were set under an old name their new one, in this process and those that it starts."""
    for old, new in names.items():
        file = Path(secrets, old.lower()) if secrets else None
        value = os.environ.get(old) or (file.read_text().strip() if file and file.is_file() else None)
        if value and new not in os.environ:
            log.warning("%s is called %s now; the old name works until version 0.3", old, new)
            os.environ[new] = value


def describe(*kinds: type[BaseSettings]) -> str:
    """Every variable of these settings, with its default and what it means, for `--help`."""
    lines = []
    for kind in kinds:
        for name, field in kind.model_fields.items():
            variable = f"{kind.model_config['env_prefix']}{name}".upper()
            default = (
                "" if field.default in (None, "") or isinstance(field.default, SecretStr) else f" [{field.default}]"
            )
            lines.append(f"  {variable}{default}")
            lines += [f"      {line}" for line in textwrap.wrap(field.description or "", 100)]
    return "\n".join(lines)


def show_help(program: str, about: str, *kinds: type[BaseSettings]) -> None:
    """For a program without arguments: show its settings and end for `--help`; end with an error for any other."""
    epilog = f"settings, as environment variables [and their defaults]:\n{describe(*kinds)}"
    plain = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog=program, description=about, epilog=epilog, formatter_class=plain).parse_args()


def _check_names(settings: type[BaseSettings], secrets: str | None) -> None:
    """A variable that nothing reads is a misspelt one. Raises `Fatal` that names it and the nearest that there is."""
    prefix = str(settings.model_config["env_prefix"])
    retired = set(getattr(settings, "RETIRED", ()))
    of_all = {f"{PREFIX}{field}".upper() for field in Settings.model_fields}  # one begins as the trainer's own do
    known = {f"{prefix}{field}".upper() for field in settings.model_fields} | retired
    passed = known | of_all | NO_SETTINGS
    files = [name.upper() for name in os.listdir(secrets)] if secrets and os.access(secrets, os.R_OK) else []
    for name in sorted({*os.environ, *files}):
        of_other = prefix == PREFIX and name.startswith(tuple(f"{PREFIX}{service.upper()}_" for service in PORTS))
        if not name.startswith(prefix) or name in passed or of_other or SERVICE_LINK.search(name):
            continue
        nearest = _nearest(name, sorted(known - retired))
        hint = f"did you mean {nearest}?" if nearest else f"there is {', '.join(sorted(known - retired))}"
        raise Fatal(f"{name}: there is no such setting; {hint}")


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """The setting that was meant, of these or of a service whose name is misspelt."""
    service, _, rest = name.removeprefix(PREFIX).partition("_")
    if rest and (services := difflib.get_close_matches(service.lower(), PORTS, 1)) and services[0] != service.lower():
        return f"{PREFIX}{services[0].upper()}_{rest}"
    own = [setting.removeprefix(PREFIX) for setting in known]  # what all begin with would make any two alike
    return next((PREFIX + near for near in difflib.get_close_matches(name.removeprefix(PREFIX), own, 1)), None)


def _check_required(settings: Settings) -> None:
    for variable in filter(None, (name.strip() for name in settings.require.split(","))):
        field = variable.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields or not variable.startswith(PREFIX):
            raise Fatal(f"{PREFIX}REQUIRE: {variable} is no setting that every service has")
        value = getattr(settings, field)
        if field not in settings.model_fields_set or not (settings.keys if field == "api_keys" else value):
            place = f" or in the file {settings.secrets / variable.lower()}" if settings.secrets else ""
            raise Fatal(f"{variable}: must be set here, in the environment{place}")
