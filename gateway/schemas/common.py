"""What all request schemas share: strict types, one error form with a short echo, honest treatment of other fields."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas.shapes import REF

log = logging.getLogger("trimodal.gateway")

# vLLM once answered 4 KB of bad request with 23 MB of error text.
MAX_ECHO = 100
MAX_REPORTED = 10
REFUSED = "Not supported: only values that ask for nothing."
IGNORED = "Accepted, without effect."

Schema = TypeVar("Schema", bound="RequestSchema")


class RequestSchema(BaseModel):
    """A request body. Types are strict: OpenAI refuses "0.5" where a number belongs, and so does this."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


@dataclass(frozen=True)
class BodyFields(Generic[Schema]):
    """Every field that is known in the body of a route: what checks a request here writes /openapi.json as well.

    `schema` checks its own fields, and `shared` names those that another schema checks after a translation. The
    `refused` ones would change the answer, and may only have their harmless values; `ignored` ones have no effect.
    """

    schema: type[Schema]
    refused: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    shared: tuple[type[RequestSchema], tuple[str, ...]] = (RequestSchema, ())

    def read(self, body: bytes) -> Schema:
        """Raises InvalidRequest or Unsupported."""
        return self.check(parse_json(body))

    def check(self, values: dict[str, Any]) -> Schema:
        """Raises InvalidRequest or Unsupported."""
        refuse_unsupported(values, self.refused)
        request = validate(self.schema, values)
        log_unknown(values, [*self.schema.model_fields, *self.refused, *self.ignored, *self.shared[1]])
        return request

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema of the whole body, with `$defs`; its references are those of /openapi.json."""
        schema = self.schema.model_json_schema(ref_template=REF)
        other, names = self.shared
        translated = other.model_json_schema(ref_template=REF)
        shared = {name: translated["properties"][name] for name in names}
        harmless = {name: {"enum": [None, *values], "description": REFUSED} for name, values in self.refused.items()}
        ignored = {name: {"description": IGNORED} for name in self.ignored}
        schema["properties"] = schema["properties"] | shared | harmless | ignored
        schema["$defs"] = translated.get("$defs", {}) | schema.get("$defs", {})
        return schema


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
        value = values.get(name)
        # In JSON neither true is 1 nor 1.0 text; in Python true equals 1.
        if value is not None and not any(type(value) is type(other) and value == other for other in allowed):
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
