"""`python -m services.embedding`: settings to app to uvicorn; or `... embed`."""

import logging
import os
import sys
from functools import partial
from pathlib import Path

from services.embedding.api.app import assemble
from services.embedding.models.base import Encoder
from services.embedding.models.load import load as load_model
from services.embedding.resources import cores
from services.embedding.serving.batcher import workers
from services.embedding.settings import EmbeddingSettings
from shared import tracing
from shared.http.server import Server, listen, loop_factory
from shared.manifest import Manifest
from shared.process import configure_logging, fatal_in_one_line, run
from shared.settings import Settings, load, show_help

log = logging.getLogger("services.embedding")


def load_version(settings: EmbeddingSettings, folder: Path, manifest: Manifest) -> Encoder:
    """Load a version. Runs in the loader's thread: the first import takes seconds."""
    threads = settings.threads or max(1, cores() // workers(settings))
    return load_model(folder, manifest, settings.device, threads, settings.precision, settings.backend)


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings, own = load(Settings), load(EmbeddingSettings)
    configure_logging(settings.log_level, settings.log_format, "embedding")
    listener = listen(own.host, own.port, "PAIRWRIGHT_EMBEDDING_PORT")
    app = assemble(settings, own, partial(load_version, own))
    stop_tracing = tracing.start("embedding")
    log.info("listening on http://%s:%d, versions from %s", own.host, own.port, settings.models_dir)
    web = Server(tracing.traced(app), own.drain_seconds, keep_alive_s=settings.keep_alive_seconds)
    await web.serve(sockets=[listener])
    stop_tracing()
    # Not a return: the interpreter would wait for a version that native code is still loading.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["embed"]:
        from services.embedding.commands import embed  # the service starts without a command line's libraries

        with fatal_in_one_line("embedding"):
            embed.run(sys.argv[2:], load_version)
        sys.exit()
    about = "Text in, vectors out, over HTTP, always from the current version. Without HTTP: see `... embed --help`."
    show_help("python -m services.embedding", about, Settings, EmbeddingSettings)
    run("embedding", main(), loop_factory())
