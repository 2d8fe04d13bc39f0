"""Answers in a form: response_format, vLLM's structured_outputs and its older guided_* fields become one guide.

Knows the guides of the contract, by name; whether a schema or a grammar can be followed is the model's to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import ConfigDict, Field, WithJsonSchema, model_validator
from typing_extensions import Self

from gateway.errors import InvalidRequest, Unsupported
from gateway.reasoning import CLOSE as THINK_END
from gateway.schemas.common import RequestSchema
from gateway.schemas.sampling import to_json
from gateway.schemas.shapes import NULL, OBJECT, TEXT, object_of, one_of
from gateway.tensors import Value

NAME = r"^[a-zA-Z0-9_.\-]{1,64}$"


class Guide(NamedTuple):
    """`kind` is the contract's guide type, `value` the guide as JSON or text; `field` is where the client wrote it.

    One that does not hold `from_start` leaves the text free until its trigger.
    """

    kind: str
    value: Any
    field: str
    from_start: bool = True

    @property
    def inputs(self) -> dict[str, Value]:
        """Raises InvalidRequest for what cannot be written as JSON."""
        text = self.value if isinstance(self.value, str) else to_json(self.value, self.field)
        return {"guided_decoding_guide_type": self.kind, "guided_decoding_guide": text}

    @property
    def form(self) -> dict[str, Any] | None:
        """As a part of a structural tag; None for a grammar, which cannot be one."""
        if self.kind == "structural_tag":
            return dict(self.value["format"])
        if self.kind == "choice":
            return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in self.value]}
        key = {"json_schema": "json_schema", "regex": "pattern"}.get(self.kind)
        return {"type": self.kind, key: self.value} if key else None


def tag_guide(form: dict[str, Any], field: str, from_start: bool = True) -> Guide:
    """A guide in XGrammar's form, https://xgrammar.mlc.ai/docs/structural_tag/structural_tag.html."""
    return Guide("structural_tag", {"type": "structural_tag", "format": form}, field, from_start)


def after_thinking(guide: Guide) -> Guide:
    """Free thinking first, and the form behind it. Raises Unsupported for a grammar."""
    if guide.form is None:
        raise Unsupported("a grammar leaves no room to think: turn thinking off", guide.field)
    thinking = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": THINK_END}
    # What models write there by themselves; a guide would have them begin the answer at once.
    layout = {"type": "const_string", "value": "\n\n"}
    return tag_guide({"type": "sequence", "elements": [thinking, layout, guide.form]}, guide.field)


def either(guide: Guide, calls: dict[str, Any]) -> Guide:
    """An answer in its form, or calls. Raises Unsupported for a grammar."""
    if guide.form is None:
        reason = 'a grammar cannot be combined with tools, unless tool_choice is "none"'
        raise Unsupported(reason, guide.field)
    return tag_guide({"type": "or", "elements": [guide.form, calls]}, guide.field)


# What `_object` accepts.
_SCHEMA = one_of(OBJECT, {**TEXT, "contentMediaType": "application/json"}, NULL)
_TAG = one_of(object_of({"format": OBJECT}), {**TEXT, "contentMediaType": "application/json"}, NULL)


class JsonSchemaFormat(RequestSchema):
    """`strict` changes nothing here: every schema is followed to the letter."""

    name: str = Field(pattern=NAME)
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestSchema):
    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    format: dict[str, Any] | None = None


class StructuredOutputs(RequestSchema):
    """vLLM's field; a key that is not here is refused, for it would change the answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    json_: Annotated[Any, WithJsonSchema(_SCHEMA)] = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = Field(None, min_length=1)
    choice: list[str] | None = Field(None, min_length=1, max_length=1000)
    grammar: str | None = Field(None, min_length=1)
    structural_tag: Annotated[Any, WithJsonSchema(_TAG)] = None


class GuideFields(RequestSchema):
    """The fields of a request that can ask for a form."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Annotated[Any, WithJsonSchema(_SCHEMA)] = None
    guided_regex: str | None = Field(None, min_length=1)
    guided_choice: list[str] | None = Field(None, min_length=1, max_length=1000)
    guided_grammar: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check_guide(self) -> Self:
        # Where only tokens are counted, nobody asks for the guide.
        read_guide(self)
        return self


def read_guide(request: GuideFields) -> Guide | None:
    """Raises InvalidRequest for a bad schema and for more than one form."""
    guides = [*_response_format(request.response_format), *_structured_outputs(request), *_guided(request)]
    if len(guides) > 1:
        raise InvalidRequest(f"{guides[0].field} and {guides[1].field} cannot be combined", guides[1].field)
    return guides[0] if guides else None


def schema_guide(schema: dict[str, Any], field: str) -> Guide:
    return Guide("json_schema", schema, field)


def _response_format(wanted: ResponseFormat | None) -> Iterator[Guide]:
    field = "response_format"
    if wanted is None or wanted.type == "text":
        return
    if wanted.type == "json_object":
        # OpenAI promises an object; the bare guide `json` would allow any value.
        yield schema_guide({"type": "object"}, field)
    elif wanted.type == "structural_tag":
        if wanted.format is None:
            raise InvalidRequest("format is required for a structural_tag", f"{field}.format", "missing_required")
        yield tag_guide(wanted.format, field)
    elif wanted.json_schema is None:
        raise InvalidRequest("json_schema is required for this type", f"{field}.json_schema", "missing_required")
    else:
        yield schema_guide(wanted.json_schema.json_schema, f"{field}.json_schema.schema")


def _structured_outputs(request: GuideFields) -> Iterator[Guide]:
    wanted = request.structured_outputs
    if wanted is None:
        return
    field = "structured_outputs"
    yield from _plain(field + ".", wanted.json_, wanted.regex, wanted.choice, wanted.grammar)
    if wanted.json_object:
        yield schema_guide({"type": "object"}, f"{field}.json_object")
    if wanted.structural_tag is not None:
        where = f"{field}.structural_tag"
        tag = _object(wanted.structural_tag, where)
        if not isinstance(tag.get("format"), dict):
            raise InvalidRequest("must hold a format", f"{where}.format", "missing_required")
        yield tag_guide(tag["format"], where)


def _guided(request: GuideFields) -> Iterator[Guide]:
    return _plain("guided_", request.guided_json, request.guided_regex, request.guided_choice, request.guided_grammar)


def _plain(
    prefix: str, schema: Any, regex: str | None, choice: list[str] | None, grammar: str | None
) -> Iterator[Guide]:
    if schema is not None:
        yield schema_guide(_object(schema, f"{prefix}json"), f"{prefix}json")
    if regex is not None:
        yield Guide("regex", regex, f"{prefix}regex")
    if choice is not None:
        if "" in choice:
            raise InvalidRequest("no choice may be empty", f"{prefix}choice")
        yield Guide("choice", choice, f"{prefix}choice")
    if grammar is not None:
        yield Guide("ebnf_grammar", grammar, f"{prefix}grammar")


def _object(value: Any, field: str) -> dict[str, Any]:
    """An object, or an object as JSON text, which vLLM takes too."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise InvalidRequest("is not valid JSON", field) from None
    if not isinstance(value, dict):
        raise InvalidRequest("must be an object", field)
    return value
