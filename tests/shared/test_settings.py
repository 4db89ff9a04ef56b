"""Settings come from the environment; a wrong one is told in one line that names it and hides its value."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.embedding.settings import EmbeddingSettings
from services.generation.settings import GenerationSettings
from services.trainer.settings import TrainerSettings
from shared.errors import Fatal
from shared.settings import Port, Settings, describe, load


class ServiceSettings(BaseSettings):
    """What a service's own settings look like."""

    model_config = SettingsConfigDict(env_prefix="PAIRWRIGHT_EXAMPLE_", env_ignore_empty=True, extra="ignore")

    port: Port = 8001
    options: dict[str, int] = {}


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
    monkeypatch.setenv("PAIRWRIGHT_API_KEYS", " one-hidden, ,two-hidden,")
    settings = load(Settings)
    assert settings.keys == ("one-hidden", "two-hidden")
    assert "hidden" not in repr(settings)


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
    with pytest.raises(Fatal) as raised:
        load(Settings)
    message = str(raised.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert value not in message


@pytest.mark.parametrize("value", ["0", "65536", "http", "80.5"])
def test_a_service_s_prefix_is_part_of_the_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PAIRWRIGHT_EXAMPLE_PORT", value)
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_EXAMPLE_PORT: "):
        load(ServiceSettings)


def test_a_secret_may_be_a_file_and_the_environment_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pairwright_api_keys").write_text("from-the-file\n")
    (tmp_path / "pairwright_embedding_port").write_text("9000\n")
    (tmp_path / "hf_token").write_text("not ours")
    monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path))
    assert load(Settings).keys == ("from-the-file",)
    assert load(EmbeddingSettings).port == 9000
    monkeypatch.setenv("PAIRWRIGHT_API_KEYS", "from-the-environment")
    assert load(Settings).keys == ("from-the-environment",)


def test_secrets_are_read_as_kubernetes_mounts_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "..2026_11_25").mkdir()
    (tmp_path / "..2026_11_25" / "pairwright_api_keys").write_text("behind-two-links")
    (tmp_path / "..data").symlink_to("..2026_11_25")
    (tmp_path / "pairwright_api_keys").symlink_to("..data/pairwright_api_keys")
    monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path))
    assert load(Settings).keys == ("behind-two-links",)


def test_no_folder_of_secrets_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path / "none"))
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_SECRETS: there is no folder '.*none'$"):
        load(Settings)


def test_a_secret_that_is_wrong_is_named_and_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pairwright_redis_url").write_text("password@redis")
    monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path))
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_REDIS_URL: ") as raised:
        load(Settings)
    assert "password" not in str(raised.value)


@pytest.mark.parametrize("keys", [None, "", " , "])
def test_what_is_required_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: str | None) -> None:
    monkeypatch.setenv("PAIRWRIGHT_REQUIRE", "PAIRWRIGHT_REDIS_URL, PAIRWRIGHT_API_KEYS")
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_REDIS_URL: must be set here, in the environment$"):
        load(Settings)
    monkeypatch.setenv("PAIRWRIGHT_REDIS_URL", "redis://redis:6379/0")
    monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path))
    file = tmp_path / "pairwright_api_keys"
    if keys is not None:
        file.write_text(keys)
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_API_KEYS: ") as raised:
        load(Settings)
    assert str(raised.value).endswith(f"in the environment or in the file {file}")
    file.write_text("one")
    assert load(Settings).keys == ("one",)


def test_what_is_required_must_be_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_REQUIRE", "PAIRWRIGHT_REDIS_ULR")
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_REQUIRE: PAIRWRIGHT_REDIS_ULR is no setting"):
        load(Settings)


def test_a_secret_that_this_user_may_not_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "pairwright_api_keys"
        file.write_text("hidden")
        file.chmod(0)
        monkeypatch.setenv("PAIRWRIGHT_SECRETS", folder)
        us = os.geteuid()
        if us == 0:
            os.seteuid(65534)  # root may read everything
        try:
            with pytest.raises(Fatal) as raised:
                load(Settings)
        finally:
            os.seteuid(us)
        assert str(raised.value) == f"PAIRWRIGHT_SECRETS: this user can't read {file}: Permission denied"


def test_what_is_no_json_is_one_line_that_hides_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_EXAMPLE_OPTIONS", '{"hidden": ')
    with pytest.raises(Fatal, match=r"^PAIRWRIGHT_EXAMPLE_OPTIONS: must be JSON: ") as raised:
        load(ServiceSettings)
    assert "hidden" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PAIRWRIGHT_DATASETS", "did you mean PAIRWRIGHT_DATASET?"),
        ("PAIRWRIGHT_EMBEDING_PORT", "did you mean PAIRWRIGHT_EMBEDDING_PORT?"),
        ("PAIRWRIGHT_XYZ", "there is PAIRWRIGHT_API_KEYS, PAIRWRIGHT_CACHE, "),
    ],
)
@pytest.mark.parametrize("as_secret", [False, True])
def test_a_variable_that_nothing_reads_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, meant: str, as_secret: bool
) -> None:
    if as_secret:
        monkeypatch.setenv("PAIRWRIGHT_SECRETS", str(tmp_path))
        (tmp_path / variable.lower()).write_text("hunter2")
    else:
        monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(Fatal) as raised:
        load(Settings)
    assert str(raised.value).startswith(f"{variable}: there is no such setting; {meant}")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("kind", [EmbeddingSettings, GenerationSettings, TrainerSettings])
def test_each_service_knows_its_own_variables_only(monkeypatch: pytest.MonkeyPatch, kind: type[BaseSettings]) -> None:
    prefix = kind.model_config["env_prefix"]
    monkeypatch.setenv(f"{prefix}PROT", "1")
    for name in ("PAIRWRIGHT_EMBEDDING_X", "PAIRWRIGHT_GENERATION_X", "PAIRWRIGHT_TRAINER_X"):
        if not name.startswith(str(prefix)):
            monkeypatch.setenv(name, "1")  # one environment for all services is common
    load(Settings)
    with pytest.raises(Fatal, match=rf"^{prefix}PROT: there is no such setting; did you mean {prefix}PORT\?$"):
        load(kind)


def test_variables_of_set_up_of_examples_and_of_kubernetes_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PAIRWRIGHT_DEVICE", "PAIRWRIGHT_URL", "PAIRWRIGHT_API_KEY", "PAIRWRIGHT_EMBEDDING_SERVICE_HOST",
        "PAIRWRIGHT_EMBEDDING_SERVICE_PORT_HTTP", "PAIRWRIGHT_EMBEDDING_PORT_8002_TCP_ADDR", "PAIRWRIGHT_SERVICE_PORT",
    ):  # fmt: skip
        monkeypatch.setenv(name, "tcp://10.0.0.1:8002")
    load(Settings)
    load(EmbeddingSettings)


def test_a_retired_name_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRWRIGHT_TRAINER_VIEWS", "7")
    monkeypatch.delenv("PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS", raising=False)
    try:
        assert load(TrainerSettings).teacher_embeddings == 7
    finally:
        os.environ.pop("PAIRWRIGHT_TRAINER_TEACHER_EMBEDDINGS", None)


def test_every_setting_is_described_with_its_default() -> None:
    text = describe(Settings, EmbeddingSettings)
    assert "PAIRWRIGHT_EMBEDDING_PORT [8002]\n" in text
    assert "  PAIRWRIGHT_DATASET [default]\n      Which dataset" in text


@pytest.mark.slow
@pytest.mark.parametrize("module", ["services.embedding", "services.generation", "services.trainer", "shared.health"])
def test_every_entry_point_has_help(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert f"python -m {module}" in done.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", module, "nothing", "--at-all"], capture_output=True, text=True, timeout=120
    )
    assert wrong.returncode != 0
    assert "nothing" in wrong.stderr
