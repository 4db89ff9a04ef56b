"""`python -m services.embedding`: settings to parts to app to uvicorn."""

import gc
import logging
import os
import sys
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.embedding.api.app import build_app
from services.embedding.metrics import Metrics
from services.embedding.models.base import Encoder
from services.embedding.resources import cores
from services.embedding.serving.admission import Limits
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.cache import Cache
from services.embedding.serving.loading import LoadModel, VersionLoader
from services.embedding.serving.registry import VersionRegistry
from services.embedding.settings import EmbeddingSettings
from shared import __version__, tracing
from shared.heartbeat import Heartbeats
from shared.http.server import Server, listen, loop_factory
from shared.manifest import Manifest
from shared.model_store import ModelStore
from shared.process import configure_logging, run
from shared.redis import command_client
from shared.settings import Settings
from shared.settings import load as load_settings

log = logging.getLogger("services.embedding")

MOST_WORKERS = 4


def load_version(settings: EmbeddingSettings, folder: Path, manifest: Manifest) -> Encoder:
    """Load a version with torch. Runs in the loader's thread: the first import takes seconds."""
    is_first = "services.embedding.models.torch" not in sys.modules
    from services.embedding.models import torch

    if is_first:
        # The libraries' objects live for ever: the collection after each swap need not walk a million of them.
        gc.freeze()
    return torch.load(folder, manifest, settings.device, threads(settings), settings.precision)


def workers(settings: EmbeddingSettings) -> int:
    """Batches computed at one time. Several with few threads each beat one with many: no thread waits for another."""
    return settings.workers or min(cores(), MOST_WORKERS)


def threads(settings: EmbeddingSettings) -> int:
    """Threads of one batch."""
    return settings.threads or max(1, cores() // workers(settings))


def assemble(settings: Settings, own: EmbeddingSettings, load_model: LoadModel) -> FastAPI:
    """The app with all its parts; nothing runs before its lifespan starts."""
    metrics = Metrics(CollectorRegistry())
    loader = VersionLoader(ModelStore(settings.models_dir), load_model, metrics)
    versions = VersionRegistry(loader, poll_s=own.poll_seconds, max_versions=own.max_versions, metrics=metrics)
    batcher = Batcher(
        workers=workers(own),
        max_batch_tokens=own.max_batch_tokens,
        max_wait_s=own.max_wait_seconds,
        limits=Limits(own.max_queue_inputs, own.max_queue_chars, own.max_queue_tokens, own.request_seconds),
        cache=Cache(own.cache_mib * 1024 * 1024),
        metrics=metrics,
    )
    # Serving needs no Redis: where there is one, a new version is heard of before the next poll.
    heartbeats = Heartbeats(command_client(settings.redis_url), settings.dataset) if settings.redis_url else None
    return build_app(
        own,
        versions,
        batcher,
        keys=settings.keys,
        metrics=metrics,
        code_version=__version__,
        listen=heartbeats.listen if heartbeats else None,
    )


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings, own = load_settings(Settings), load_settings(EmbeddingSettings)
    configure_logging(settings.log_level, settings.log_format, "embedding")
    listener = listen(own.host, own.port, "PAIRWRIGHT_EMBEDDING_PORT")
    app = assemble(settings, own, partial(load_version, own))
    stop_tracing = tracing.start("embedding")
    log.info("listening on http://%s:%d, versions from %s", own.host, own.port, settings.models_dir)
    await Server(tracing.traced(app), own.drain_seconds).serve(sockets=[listener])
    stop_tracing()
    # Not a return: the interpreter would wait for a version that native code is still loading.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    run("embedding", main(), loop_factory())
