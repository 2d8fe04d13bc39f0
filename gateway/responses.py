"""Whole answers: JSON by orjson, and any error in the form that the clients of its route read."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from gateway.errors import GatewayError


def json_response(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def error_response(error: GatewayError, path: str) -> Response:
    body = error.messages_body if is_messages_route(path) else error.body
    response = json_response(body, error.status)
    response.headers.update(error.headers)
    return response


def is_messages_route(path: str) -> bool:
    """Whether clients of Anthropic's API ask here."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")
