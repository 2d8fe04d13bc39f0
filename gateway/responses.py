"""Whole answers: JSON by orjson, and any error in OpenAI's form."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from gateway.errors import GatewayError


def json_response(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")


def error_response(error: GatewayError) -> Response:
    return Response(error.to_json(), error.status, error.headers, "application/json")
