"""Puts the app together: lifespan, routes, and one error form for everything that goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.deps import open_services
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, RouteNotFound
from gateway.metrics import Metrics
from gateway.middleware import RequestScope
from gateway.responses import error_response
from gateway.routes import audio, chat, health, models
from gateway.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Makes an app that opens its channel to Triton when it starts and closes it when it stops."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings, metrics) as services:
            app.state.services = services
            yield

    app = FastAPI(title="Trimodal", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(RequestScope, metrics=metrics)
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    for module in (chat, audio, models, health):
        app.include_router(module.router)
    return app


async def _on_gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        response = error_response(RouteNotFound(f"There is no route {where}."))
    elif error.status_code == 405:
        response = error_response(MethodNotAllowed(f"The route does not take {where}."))
    else:
        response = error_response(InvalidRequest(str(error.detail)[:200]))
    response.headers.update(error.headers or {})
    return response


async def _on_validation_error(request: Request, error: Exception) -> Response:
    return error_response(InvalidRequest("The request does not have the form that this route takes."))
