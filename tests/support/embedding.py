"""The whole service in a thread of the test's process, on a real port; and an encoder that can be held up."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from services.embedding.__main__ import load_version
from services.embedding.api.app import assemble
from services.embedding.models.base import EncodeOptions, Encoder, Token, Tokens, Vectors
from services.embedding.serving.loading import LoadModel
from services.embedding.settings import EmbeddingSettings
from shared.http.server import Server, listen
from shared.manifest import Manifest
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
LOG = "embedding.log"
PATIENCE_S = 120  # torch takes long to load beside other tests


def spawn(home: Path, port: int, **settings: str) -> "subprocess.Popen[str]":
    """`python -m services.embedding` in a process of its own, whose log is `LOG` in `home`."""
    environment = os.environ | {"PAIRWRIGHT_HOME": str(home), "PAIRWRIGHT_EMBEDDING_PORT": str(port)} | settings
    with (home / LOG).open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "services.embedding"], cwd=ROOT, env=environment, stderr=log, text=True
        )


def is_ready(url: str) -> bool:
    """Whether a service answers and can do its work."""
    try:
        return httpx.get(url + "/readyz").status_code == 200
    except (httpx.ConnectError, httpx.TimeoutException):  # it starts, on a machine that does much else
        return False


class LiveService:
    """What `python -m services.embedding` serves, at `url`."""

    def __init__(
        self, home: Path, *, load: LoadModel | None = None, api_keys: str = "", redis_url: str | None = None, **own: Any
    ) -> None:
        settings = Settings(home=home, api_keys=api_keys, redis_url=redis_url)
        # Without a cache and in full precision unless a test asks otherwise: most compare vectors, computed anew.
        options: dict[str, Any] = {"poll_seconds": 0.02, "cache_mib": 0, "precision": "float32"} | own
        embedding = EmbeddingSettings(**options)
        listener = listen("127.0.0.1", 0, "PAIRWRIGHT_EMBEDDING_PORT")
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self._server = Server(assemble(settings, embedding, load or partial(load_version, embedding)), 10)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it as SIGTERM does."""
        self._client.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def metric(self, name: str, labels: str = "") -> float:
        """The value of one of the service's metrics."""
        for line in self._client.get("/metrics").text.splitlines():
            if line.startswith(f"pairwright_embedding_{name}{labels} "):
                return float(line.split()[-1])
        raise AssertionError(f"there is no metric {name}")

    def serving(self) -> str:
        """The id of the version that serves."""
        return self._client.get("/health").headers["x-pairwright-version"]

    def version_check(self) -> str:
        """What `/readyz` says of the version."""
        return str(self._client.get("/readyz").json()["checks"]["version"])

    def wait_until_ready(self) -> None:
        """Wait for the first version."""
        self.wait_until(lambda: self._client.get("/readyz").status_code == 200, "the service is ready")

    @staticmethod
    def wait_until(holds: Callable[[], bool], what: str) -> None:
        """Wait for something that must come."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"never came: {what}"
            time.sleep(0.01)


class Gate(Encoder):
    """A real encoder whose batches wait while the gate is shut: requests can be caught in flight."""

    def __init__(self, inner: Encoder, opened: threading.Event, entered: threading.Event) -> None:
        super().__init__(inner.manifest)
        self.padded, self.max_tokens, self.pooling = inner.padded, inner.max_tokens, inner.pooling
        self.prompts, self.default_prompt, self.batch_tokens = inner.prompts, inner.default_prompt, inner.batch_tokens
        self.backend, self.precision = inner.backend, inner.precision
        self._inner, self._opened, self._entered = inner, opened, entered

    def tokenise(self, texts: Sequence[str], options: EncodeOptions) -> list[Tokens]:
        return self._inner.tokenise(texts, options)

    def encode(self, batch: Sequence[Tokens], options: EncodeOptions) -> Vectors:
        if threading.current_thread().name.startswith("inference"):
            self._entered.set()
            assert self._opened.wait(PATIENCE_S)
        return self._inner.encode(batch, options)

    def windows(self, text: str, options: EncodeOptions) -> list[str]:
        return self._inner.windows(text, options)

    def token_vectors(self, tokens: Tokens, options: EncodeOptions) -> Vectors:
        return self._inner.token_vectors(tokens, options)

    def list_tokens(self, texts: Sequence[str], prompt: str, add_special_tokens: bool, limit: int) -> list[list[Token]]:
        return self._inner.list_tokens(texts, prompt, add_special_tokens, limit)

    def decode(self, ids: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        return self._inner.decode(ids, skip_special_tokens)


class Gatekeeper:
    """Loads versions behind one gate, which is open at first."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.opened.set()

    def shut(self) -> None:
        self.opened.clear()
        self.entered.clear()

    def load(self, folder: Path, manifest: Manifest) -> Encoder:
        """A `LoadModel`."""
        return Gate(load_version(EmbeddingSettings(), folder, manifest), self.opened, self.entered)
