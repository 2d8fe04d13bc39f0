"""The HTTP server around the app: uvicorn on uvloop and httptools, in this process or in several on one socket."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from gateway.app import create_app
from gateway.keys import read_keys
from gateway.logs import set_up_logging
from gateway.metrics import SHARED_FOLDER
from gateway.settings import SettingError, Settings
from gateway.triton import read_credentials

# Longer than the pools of usual clients keep a connection, so that none is closed under a new request.
KEEP_ALIVE_S = 75
# A worker answers only when its imports are done; on a busy machine that is longer than uvicorn's own 5 s.
WORKER_PATIENCE_S = 30


def serve(settings: Settings) -> bool:
    """Serves until a signal; returns whether it ever did. Raises SettingError."""
    if settings.workers == 1:
        server = create_server(settings)
        server.run()
        return server.started
    with tempfile.TemporaryDirectory(prefix="trimodal-metrics-") as folder:
        # The workers' Prometheus client looks for it when it is imported.
        os.environ[SHARED_FOLDER] = folder
        create_workers(settings).run()
    return True


def create_server(settings: Settings) -> uvicorn.Server:
    """Makes a server that is not yet running; it leaves logging as it is set up. Raises SettingError."""
    config = _config(create_app(settings), settings)
    _load(config, settings)
    return uvicorn.Server(config)


def create_workers(settings: Settings) -> Multiprocess:
    """Makes the parent of `settings.workers` processes, which starts a lost one anew. Raises SettingError."""
    # What is wrong with the settings is told here and once, not by each worker.
    read_keys(settings)
    read_credentials(settings)
    _load(_config(FastAPI(), settings), settings)
    app = partial(_worker_app, settings)
    more = {"factory": True, "workers": settings.workers, "timeout_worker_healthcheck": WORKER_PATIENCE_S}
    config = _config(app, settings, **more)
    return Multiprocess(config, [config.bind_socket()])


def _worker_app(settings: Settings) -> FastAPI:
    set_up_logging(settings.log_level)
    return create_app(settings)


def _config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        # The library's own older protocol class is deprecated.
        ws="websockets-sansio",
        ssl_certfile=settings.tls_cert_file or None,
        ssl_keyfile=settings.tls_key_file or None,
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_s),
        **more,
    )


def _load(config: uvicorn.Config, settings: Settings) -> None:
    try:
        config.load()
    except OSError as error:
        # ssl.SSLError, for files that are no certificate or do not belong together, is an OSError as well.
        raise SettingError("tls_cert_file", settings.tls_cert_file, f"cannot be used: {error}") from None
