"""JSON Schema of values that come in several forms, for /openapi.json.

Pydantic would report a union once per branch, under paths that no client has written. So code checks such a field, the
field itself is `Any`, and the shape beside that code tells what it accepts; a test sends what the shapes allow, and
what they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = dict[str, Any]

# Where the parts of the document stand, in pydantic's template.
REF = "#/components/schemas/{model}"

TEXT: Shape = {"type": "string"}
NONEMPTY: Shape = {"type": "string", "minLength": 1}
OBJECT: Shape = {"type": "object"}
NULL: Shape = {"type": "null"}
ANYTHING: Shape = {}


def one_of(*forms: Shape) -> Shape:
    return {"anyOf": list(forms)}


def words(*values: str) -> Shape:
    return {"enum": list(values)}


def list_of(item: Shape, **bounds: int) -> Shape:
    return {"type": "array", "items": item, **bounds}


def object_of(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """Other keys are allowed: they are ignored, or handed on."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def typed(kind: str, required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object whose `type` is `kind`."""
    return object_of({"type": {"const": kind}, **required}, optional)
