"""Puts the app together: lifespan, routes, and one error form for everything that goes wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from gateway.deps import open_services
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, RouteNotFound
from gateway.guard import KeyGuard
from gateway.keys import KeyRing
from gateway.limits import RATE_HEADERS
from gateway.metrics import Metrics
from gateway.middleware import RequestScope
from gateway.openapi import describe_app
from gateway.responses import error_response
from gateway.routes import (
    audio,
    chat,
    completions,
    embeddings,
    health,
    inference,
    messages,
    models,
    realtime,
    responses,
    tokens,
)
from gateway.settings import Settings, split

log = logging.getLogger("trimodal.gateway")


def create_app(settings: Settings) -> FastAPI:
    """Makes an app that opens its channel to Triton when it starts and closes it when it stops. Raises SettingError."""
    ring = KeyRing(settings)
    with_keys = bool(ring.keys)
    if not with_keys and not settings.is_local:
        log.warning("no API keys: whoever reaches %s may use every model; see docs/security.md", settings.host)
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings, metrics) as services:
            app.state.services = services
            yield

    app = FastAPI(title="Trimodal", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    describe_app(app, with_keys, split(settings.open_routes))
    # The last one added is the first to see a request: a refusal has an id, a log line and the headers of CORS.
    if with_keys:
        app.add_middleware(KeyGuard, ring=ring, open_routes=split(settings.open_routes))
    app.add_middleware(RequestScope, metrics=metrics)
    if settings.cors_origins:
        _allow_origins(app, split(settings.cors_origins))
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    for module in (
        chat,
        completions,
        responses,
        messages,
        inference,
        embeddings,
        tokens,
        audio,
        models,
        health,
        realtime,
    ):
        app.include_router(module.router)
    return app


def _allow_origins(app: FastAPI, origins: list[str]) -> None:
    # No credentials: keys travel in a header that the page sets itself, and cookies mean nothing here.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after", *RATE_HEADERS],
    )


async def _on_gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return error_response(error, request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        ours: GatewayError = RouteNotFound(f"There is no route {where}.")
    elif error.status_code == 405:
        ours = MethodNotAllowed(f"The route does not take {where}.")
    else:
        ours = InvalidRequest(str(error.detail)[:200])
    response = error_response(ours, request.url.path)
    response.headers.update(error.headers or {})
    return response


async def _on_validation_error(request: Request, error: Exception) -> Response:
    return error_response(InvalidRequest("The request does not have the form that this route takes."), request.url.path)
