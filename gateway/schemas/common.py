"""What all request schemas share: strict types, one error form with a short echo, honest treatment of other fields."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.errors import InvalidRequest, Unsupported

log = logging.getLogger("trimodal.gateway")

# vLLM once answered 4 KB of bad request with 23 MB of error text.
MAX_ECHO = 100
MAX_REPORTED = 10

Schema = TypeVar("Schema", bound="RequestSchema")


class RequestSchema(BaseModel):
    """A request body. Types are strict: OpenAI refuses "0.5" where a number belongs, and so does this."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def parse_json(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest unless the body is a JSON object (depth and lone surrogates are orjson's to refuse)."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {str(error)[:MAX_ECHO]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    return value


def validate(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """Raises InvalidRequest with the dotted path of the first fault; echoes at most MAX_ECHO characters of each."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        lines = [f"{_path(fault['loc'])}: {fault['msg']}{_echo(fault)}" for fault in faults[:MAX_REPORTED]]
        raise InvalidRequest("; ".join(lines), _path(faults[0]["loc"])) from None


def refuse_unsupported(values: Mapping[str, Any], harmless: Mapping[str, tuple[object, ...]]) -> None:
    """Raises Unsupported for a field of `harmless` that is set to anything but null or one of its harmless values."""
    for name, allowed in harmless.items():
        if values.get(name) is not None and values[name] not in allowed:
            raise Unsupported(f"{name} is not supported for now.", name)


def log_unknown(values: Iterable[str], known: Iterable[str]) -> None:
    """Unknown fields are ignored, as vLLM does, but never without a trace."""
    unknown = sorted(set(values) - set(known))
    if unknown:
        log.warning("ignored unknown fields: %s", ", ".join(repr(name[:50]) for name in unknown[:MAX_REPORTED]))


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _echo(fault: Mapping[str, Any]) -> str:
    value = fault.get("input")
    if fault["type"] == "missing":
        return ""
    if isinstance(value, str):
        return f", got {value[:MAX_ECHO]!r}"
    if isinstance(value, bool | int | float):
        return f", got {str(value)[:MAX_ECHO]}"
    return "" if value is None else f", got a value of type {type(value).__name__}"
