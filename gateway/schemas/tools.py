"""tools and tool_choice: what the template is given, how the answer is read, and what the model is held to."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas.common import RequestSchema
from gateway.schemas.guides import NAME, Guide, tag_guide
from gateway.schemas.sampling import to_json
from gateway.schemas.shapes import NULL, TEXT, list_of, object_of, one_of, typed, words
from gateway.tools import PARSERS
from gateway.tools.parser import ToolParser

MAX_TOOLS = 128
# OpenAI: a function without parameters takes none.
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class Function(RequestSchema):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestSchema):
    """Other keys belong to the model's template and are handed on."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    type: Literal["function"]
    function: Function


class Choice(NamedTuple):
    """What `tool_choice` says; `names` are the only tools that may be called, None is all."""

    mode: Literal["none", "auto", "required"]
    names: tuple[str, ...] | None = None
    single: bool = False


_NAMED = typed("function", {"function": object_of({"name": TEXT})})
# What `_read_choice` accepts.
_ALLOWED = object_of({"mode": words("auto", "required"), "tools": list_of(_NAMED, minItems=1)})
CHOICE = one_of(words("none", "auto", "required"), _NAMED, typed("allowed_tools", {"allowed_tools": _ALLOWED}), NULL)


class ToolFields(RequestSchema):
    tools: list[Tool] | None = Field(None, min_length=1, max_length=MAX_TOOLS)
    tool_choice: Annotated[Any, WithJsonSchema(CHOICE)] = None
    parallel_tool_calls: bool | None = None

    @field_validator("tool_choice")
    @classmethod
    def _check_choice(cls, value: Any) -> Choice | None:
        if value is None:
            return None
        choice = _read_choice(value)
        if choice is None:
            raise ValueError("must be none, auto, required, or an object of type function or allowed_tools")
        return choice


class ToolUse(NamedTuple):
    """`tools` is JSON for the chat template.

    The answer must be a call if one is `demanded`; only the `callable` ones may be called, which are not all of them if
    the choice is `restricted`.
    """

    tools: bytes
    parser: type[ToolParser]
    callable: list[Function]
    demanded: bool
    restricted: bool
    single: bool

    @property
    def guide(self) -> Guide | None:
        """Without a demand the text stays free up to a call; calls are guided where there is something to hold to."""
        if not (self.demanded or self.restricted or any(function.strict for function in self.callable)):
            return None
        return tag_guide(self.calls(self.demanded), "tools", from_start=self.demanded)

    def calls(self, at_least_one: bool) -> dict[str, Any]:
        """The form of calls that fit their schemas, and with `at_least_one` of an answer that begins with one."""
        tags = [
            {
                "begin": self.parser.call_begin.replace("NAME", function.name),
                "content": {"type": "json_schema", "json_schema": self._schema(function)},
                "end": self.parser.call_end,
            }
            for function in self.callable
        ]
        form = {"type": "triggered_tags", "triggers": [self.parser.trigger], "tags": tags}
        return form | {"at_least_one": at_least_one, "stop_after_first": self.single}

    def _schema(self, function: Function) -> dict[str, Any]:
        if self.demanded or function.strict:
            return _NO_PARAMETERS if function.parameters is None else function.parameters
        # Beside strict tools, one that is not strict is held to JSON only.
        return {"type": "object"}


def read_tool_use(request: ToolFields, parser_name: str, model_id: str) -> ToolUse | None:
    """None where no tool may be called. Raises InvalidRequest, and Unsupported for a model that writes no calls."""
    choice: Choice = request.tool_choice or Choice("none" if request.tools is None else "auto")
    if not request.tools:
        if choice.mode != "none":
            raise InvalidRequest("tool_choice needs tools", "tool_choice")
        return None
    functions = [tool.function for tool in request.tools]
    _check_names([function.name for function in functions], choice)
    if choice.mode == "none":
        return None
    parser = PARSERS.get(parser_name)
    if parser is None:
        raise Unsupported(f"The model {model_id!r} calls no tools: it has no tool_call_parser.", "tools")
    return ToolUse(
        tools=to_json([tool.model_dump(exclude_unset=True) for tool in request.tools], "tools"),
        parser=parser,
        callable=[each for each in functions if choice.names is None or each.name in choice.names],
        demanded=choice.mode == "required",
        restricted=choice.names is not None,
        single=choice.single or request.parallel_tool_calls is False,
    )


def _read_choice(value: Any) -> Choice | None:
    """OpenAI's forms of tool_choice; None for any other."""
    if value in ("none", "auto", "required"):
        return Choice(value)
    kind = value.get("type") if isinstance(value, dict) else None
    inner = value.get(kind) if kind in ("function", "allowed_tools") else None
    if not isinstance(inner, dict):
        return None
    if kind == "function":
        name = inner.get("name")
        return Choice("required", (name,), single=True) if isinstance(name, str) else None
    mode, tools = inner.get("mode"), inner.get("tools")
    if mode not in ("auto", "required") or not isinstance(tools, list):
        return None
    allowed = [_read_choice(tool) for tool in tools]
    names = [each.names[0] for each in allowed if each and each.single and each.names]
    return Choice(mode, tuple(names)) if names and len(names) == len(allowed) else None


def _check_names(names: list[str], choice: Choice) -> None:
    if len(set(names)) < len(names):
        raise InvalidRequest("two tools have the same name", "tools")
    unknown = [name for name in choice.names or () if name not in names]
    if unknown:
        raise InvalidRequest(f"{unknown[0][:64]!r} is not one of the tools", "tool_choice")
