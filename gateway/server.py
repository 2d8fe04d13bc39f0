"""The HTTP server around the app: uvicorn on uvloop and httptools."""

from __future__ import annotations

import uvicorn

from gateway.app import create_app
from gateway.settings import Settings

# Longer than the pools of usual clients keep a connection, so that none is closed under a new request.
KEEP_ALIVE_S = 75


def create_server(settings: Settings) -> uvicorn.Server:
    """Makes a server that is not yet running; it leaves logging as it is set up."""
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.shutdown_s),
    )
    return uvicorn.Server(config)
