"""The settings that every process reads, and the one way in which a wrong setting is told to a person."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process import Fatal, LogFormat

DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
AnySettings = TypeVar("AnySettings", bound=BaseSettings)


class Settings(BaseSettings):
    """What every process reads, from environment variables that begin with `PAIRWRIGHT_`."""

    model_config = SettingsConfigDict(env_prefix="PAIRWRIGHT_", env_ignore_empty=True, extra="ignore")

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
    """Any sentence-transformers model or encoder: a folder, a hub id, or `default` (static, made from the teacher)."""
    api_keys: SecretStr = SecretStr("")
    """Bearer keys, separated by commas. Without any, the HTTP services ask for none."""
    log_level: Annotated[str, Field(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    log_format: LogFormat = "human"
    """`json` writes one object an event, with the ids of its request, job, round, version and trace."""

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
    def cache_dir(self) -> Path:
        """`cache`, absolute."""
        return self.cache.expanduser().resolve()

    @property
    def keys(self) -> tuple[str, ...]:
        """The bearer keys, without blanks."""
        return tuple(key.strip() for key in self.api_keys.get_secret_value().split(",") if key.strip())


def load(settings: type[AnySettings]) -> AnySettings:
    """The settings from the environment.

    Raises `Fatal` that names the first wrong variable and what it must be; never the value, which may be a secret.
    """
    try:
        return settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = first["loc"][0] if first["loc"] else "*"  # a rule over several fields has no place of its own
        variable = f"{settings.model_config['env_prefix']}{field}".upper()
        raise Fatal(f"{variable}: {first['msg']}") from None
