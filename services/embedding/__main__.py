"""`python -m services.embedding`: settings to parts to app to uvicorn."""

import gc
import logging
import os
import sys
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.embedding.app import build_app
from services.embedding.batcher import Batcher
from services.embedding.encoder import Encoder
from services.embedding.metrics import Metrics
from services.embedding.settings import EmbeddingSettings
from services.embedding.versions import Loader, Versions
from shared import __version__
from shared.http import listen, loop_factory, server
from shared.model_store import Manifest, ModelStore
from shared.process import configure_logging, run
from shared.settings import Settings
from shared.settings import load as load_settings

log = logging.getLogger("services.embedding")


def load_version(settings: EmbeddingSettings, folder: Path, manifest: Manifest) -> Encoder:
    """Load a version with torch. Runs in the loader's thread: the first import takes seconds."""
    first = "services.embedding.torch_encoder" not in sys.modules
    from services.embedding import torch_encoder

    if first:
        # The libraries' objects live for ever: the collection after each swap need not walk a million of them.
        gc.freeze()
    return torch_encoder.load(folder, manifest, settings.device, settings.threads)


def assemble(settings: Settings, own: EmbeddingSettings, load: Loader) -> FastAPI:
    """The app with all its parts; nothing runs before its lifespan starts."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    versions = Versions(
        ModelStore(settings.models_dir),
        load,
        poll_s=own.poll_seconds,
        keep_previous=own.keep_previous,
        metrics=metrics,
    )
    batcher = Batcher(
        max_batch_tokens=own.max_batch_tokens,
        max_inputs=own.max_queue_inputs,
        max_chars=own.max_queue_chars,
        max_wait_s=own.max_wait_seconds,
        metrics=metrics,
    )
    return build_app(own, versions, batcher, keys=settings.keys, registry=registry, code_version=__version__)


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings, own = load_settings(Settings), load_settings(EmbeddingSettings)
    configure_logging(settings.log_level)
    listener = listen(own.host, own.port, "PAIRWRIGHT_EMBEDDING_PORT")
    app = assemble(settings, own, partial(load_version, own))
    log.info("listening on http://%s:%d, versions from %s", own.host, own.port, settings.models_dir)
    await server(app, own.drain_seconds).serve(sockets=[listener])
    # Not a return: the interpreter would wait for a version that native code is still loading.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    run("embedding", main(), loop_factory())
