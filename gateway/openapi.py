"""/openapi.json: what each route takes and answers, told by the types that check requests and name answers.

Routes read their bodies themselves, behind admission, so FastAPI cannot know them: `described` tells it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.responses import Response

from gateway.responses import is_messages_route
from gateway.schemas.answers import ErrorReply
from gateway.schemas.common import BodyFields
from gateway.schemas.message_answers import MessagesErrorReply
from gateway.schemas.shapes import REF

# Which errors a client can meet, by what the route does; what all have in common is added to the document.
ASKED = {
    400: "The request cannot be answered as it is.",
    413: "The body or the file is too large.",
    429: "Too many requests, or more than the key allows.",
}
FOUND = {404: "The model does not exist, or this key may not use it."}
MODEL = {
    **ASKED,
    **FOUND,
    502: "The model server broke its contract.",
    503: "The model is not available at the moment.",
    504: "The model took too long.",
}
_KEYS = {401: "No valid API key."}
_COMMON = {500: "A fault of the server."}

_TEXT = {"type": "string"}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_REQUEST_ID = {"x-request-id": {"description": "also in the server's log", "schema": _TEXT, "required": True}}
_RATES = {
    f"x-ratelimit-{what}-{unit}": {"description": "if the key has this limit", "schema": _TEXT}
    for unit in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": _TEXT, "required": True}},
    429: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}, "required": True}},
    503: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
}


@dataclass(frozen=True)
class Operation(Mapping[str, Any]):
    """What FastAPI cannot know of a route. It is written when the document is, for it takes longer than a start may.

    `answers` are the types of its JSON, `events` that of its events, which are `plain_events` if they have no names and
    end with [DONE]; `texts` are the media types of plain text, `error` the type of errors, `status` that of success.
    """

    answers: tuple[Any, ...]
    body: BodyFields[Any] | None = None
    form: BodyFields[Any] | None = None
    events: Any = None
    plain_events: bool = True
    texts: Collection[str] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    error: Any = ErrorReply
    status: int = 200

    def __getitem__(self, key: str) -> Any:
        return self._written[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return 1

    @cached_property
    def _written(self) -> dict[str, Any]:
        responses = {str(code): _error(text, code, self.error) for code, text in self.errors.items()}
        return {"responses": responses | {str(self.status): {"content": self._content()}}, **self._request_body()}

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {media: {"schema": _TEXT} for media in self.texts}
        if self.answers:
            kinds = [_schema(answer) for answer in self.answers]
            content["application/json"] = {"schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}
        if self.events is not None:
            content["text/event-stream"] = {"itemSchema": _event(self.events, self.plain_events)}
        return content

    def _request_body(self) -> dict[str, Any]:
        asked = {"application/json": self.body, "multipart/form-data": self.form}
        content = {media: {"schema": fields.json_schema()} for media, fields in asked.items() if fields is not None}
        return {"requestBody": {"required": True, "content": content}} if content else {}


def described(*answers: Any, **more: Any) -> dict[str, Any]:
    """Further arguments of a route's decorator; its own are those of `Operation`."""
    operation = Operation(answers, **more)
    return {"openapi_extra": operation, "response_class": Response, "status_code": operation.status}


def describe_app(app: FastAPI, with_keys: bool, open_routes: Collection[str]) -> None:
    """Makes `app` tell its own document, which is built when it is first asked for."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, with_keys, open_routes)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, with_keys: bool, open_routes: Collection[str]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components: dict[str, Any] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, path, with_keys and path not in open_routes)
            _move_schemas(operation, components)
    document["components"] = {"schemas": dict(sorted(components.items())), "securitySchemes": _SCHEMES}
    return document


def _complete(operation: dict[str, Any], path: str, closed: bool) -> None:
    """What is alike for all routes; a gateway without keys asks for none."""
    operation["security"] = [{name: []} for name in _SCHEMES] if closed else []
    error = MessagesErrorReply if is_messages_route(path) else ErrorReply
    # FastAPI's own answer to bad parameters; here it is a 400.
    operation["responses"].pop("422", None)
    for code, text in ((_KEYS if closed else {}) | _COMMON).items():
        operation["responses"].setdefault(str(code), _error(text, code, error))
    for response in operation["responses"].values():
        response.setdefault("headers", {}).update(_REQUEST_ID if not closed else _REQUEST_ID | _RATES)


def _error(text: str, code: int, error: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(error)}}
    return {"description": text, "content": content, "headers": dict(_HEADERS.get(code, {}))}


def _event(kind: Any, plain: bool) -> dict[str, Any]:
    """One event, as OpenAPI 3.2 and FastAPI write it. A `plain` stream has no names, and may end with an error."""
    form: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    if not plain:
        named = {"event": _TEXT, "data": form | {"contentSchema": _schema(kind)}}
        return {"type": "object", "properties": named, "required": ["event", "data"]}
    data: dict[str, Any] = {"anyOf": [{"const": "[DONE]"}, form | {"contentSchema": _schema(kind | ErrorReply)}]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema(mode="serialization", ref_template=REF)


def _move_schemas(node: Any, components: dict[str, Any]) -> None:
    """Every type has one place, its name; where it stood whole there is a reference to it."""
    if isinstance(node, list):
        for item in node:
            _move_schemas(item, components)
    if not isinstance(node, dict):
        return
    for name, schema in node.pop("$defs", {}).items():
        _keep(name, schema, components)
    if "title" in node and node.get("type") == "object" and "properties" in node:
        schema = dict(node)
        node.clear()
        node["$ref"] = REF.format(model=schema["title"])
        _keep(schema["title"], schema, components)
        return
    for value in node.values():
        _move_schemas(value, components)


def _keep(name: str, schema: dict[str, Any], components: dict[str, Any]) -> None:
    assert components.setdefault(name, schema) == schema, f"two types have the name {name}"
