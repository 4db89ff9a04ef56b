"""Settings come from the environment; a wrong one is told in one line that names it and hides its value."""

import os
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process import Fatal
from shared.settings import Port, Settings, load


class ServiceSettings(BaseSettings):
    """What a service's own settings look like."""

    model_config = SettingsConfigDict(env_prefix="PAIRWRIGHT_EXAMPLE_", env_ignore_empty=True, extra="ignore")

    port: Port = 8001


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults are what is tested, whatever the person who runs the tests has set."""
    for variable in [name for name in os.environ if name.startswith("PAIRWRIGHT_")]:
        monkeypatch.delenv(variable)


def test_everything_has_a_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(Settings)
    assert settings.redis_url is None
    assert settings.keys == ()
    assert settings.queue_dir == tmp_path / ".pairwright" / "queue"
    assert settings.cache_dir.is_absolute()
    assert "~" not in str(settings.cache_dir)


def test_datasets_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAIRWRIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("PAIRWRIGHT_DATASET", "news")
    settings = load(Settings)
    assert settings.dataset_dir == tmp_path / "datasets" / "news"
    assert settings.models_dir == tmp_path / "models" / "news"


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_REDIS_URL", "")
    monkeypatch.setenv("PAIRWRIGHT_DATASET", "")
    assert load(Settings).redis_url is None
    assert load(Settings).dataset == "default"


def test_keys_are_separated_by_commas_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_API_KEYS", " one-secret, ,two-secret,")
    settings = load(Settings)
    assert settings.keys == ("one-secret", "two-secret")
    assert "secret" not in repr(settings).replace("SecretStr", "")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PAIRWRIGHT_DATASET", "../outside"),
        ("PAIRWRIGHT_DATASET", "UPPER"),
        ("PAIRWRIGHT_DATASET", "x" * 65),
        ("PAIRWRIGHT_DATASET", "trailing\n"),
        ("PAIRWRIGHT_LOG_LEVEL", "loud-hunter2"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Fatal) as caught:
        load(Settings)
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert value not in message


@pytest.mark.parametrize("value", ["0", "65536", "http", "80.5"])
def test_a_service_s_prefix_is_part_of_the_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PAIRWRIGHT_EXAMPLE_PORT", value)
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_EXAMPLE_PORT: "):
        load(ServiceSettings)
