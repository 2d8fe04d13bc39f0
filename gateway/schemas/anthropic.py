"""POST /v1/messages and its count_tokens: Anthropic's Messages API, told as a chat."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field, WithJsonSchema

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas.chat import ChatRequest, Effort
from gateway.schemas.common import BodyFields, RequestSchema, parse_json
from gateway.schemas.guides import NAME
from gateway.schemas.sampling import to_json
from gateway.schemas.shapes import ANYTHING, NULL, OBJECT, TEXT, Shape, list_of, object_of, one_of, typed, words
from gateway.schemas.translated import EXTENSIONS, Told, call_of, known_type, parts_of, read_chat, refuse_type, text_of

NOT_SUPPORTED: dict[str, tuple[object, ...]] = {"container": (), "mcp_servers": ([],), "context_management": ({},)}
IGNORED = (
    "cache_control",
    "diagnostics",
    "inference_geo",
    "metadata",
    "service_tier",
    "speed",
    "user_profile_id",
    "workspace_id",
)
# The same name and meaning as in a chat.
_SHARED = ("model", "stream", "temperature", "top_p", *EXTENSIONS)
# Whether the model thinks; how long is the model's to say.
_EFFORTS = {"disabled": "none", "enabled": "medium", "adaptive": "medium"}


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

# What the functions below accept.
_TEXT = typed("text", {"text": TEXT})
_SOURCE = one_of(typed("base64", {"media_type": TEXT, "data": TEXT}), typed("url", {"url": TEXT}))
_TEXT_OR_IMAGE = one_of(_TEXT, typed("image", {"source": _SOURCE}))
_RESULT = typed("tool_result", {"tool_use_id": TEXT}, {"content": one_of(TEXT, list_of(_TEXT_OR_IMAGE))})
_USE = typed("tool_use", {"id": TEXT, "name": TEXT}, {"input": ANYTHING})
_SAID = one_of(_TEXT, typed("thinking", {"thinking": TEXT}), _USE, typed("redacted_thinking", {}))


def _message(roles: Shape, block: Shape) -> Shape:
    return object_of({"role": roles, "content": one_of(TEXT, list_of(block))})


_MESSAGES = one_of(
    _message(words("user", "system"), one_of(_TEXT_OR_IMAGE, _RESULT)), _message(words("assistant"), _SAID)
)
_TOOL = object_of(
    {"name": {"type": "string", "pattern": NAME}},
    {
        "type": one_of(words("custom"), NULL),
        "description": one_of(TEXT, NULL),
        "input_schema": one_of(OBJECT, NULL),
        "strict": one_of({"type": "boolean"}, NULL),
    },
)
_TOOL_CHOICE = one_of(object_of({"type": words(*_CHOICES)}), typed("tool", {"name": TEXT}))
_FORMAT = typed("json_schema", {"schema": OBJECT})


def _object(shape: Shape) -> Any:
    """A field of an object that the functions below check."""
    return Field(None, json_schema_extra={"anyOf": [shape, NULL]})


class OutputConfig(RequestSchema):
    effort: Effort | None = None
    format: dict[str, Any] | None = _object(_FORMAT)


class MessagesRequest(RequestSchema):
    """The fields that are not those of a chat; `max_tokens` counts tokens and is required for an answer."""

    messages: list[dict[str, Any]] = Field(min_length=1, json_schema_extra={"items": _MESSAGES})
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    system: Annotated[Any, WithJsonSchema(one_of(TEXT, list_of(_TEXT), NULL))] = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = _object(list_of(_TOOL))
    tool_choice: dict[str, Any] | None = _object(_TOOL_CHOICE)
    thinking: dict[str, Any] | None = _object(object_of({"type": words(*_EFFORTS)}))
    output_config: OutputConfig | None = None


FIELDS = BodyFields(MessagesRequest, NOT_SUPPORTED, IGNORED, (ChatRequest, _SHARED))


class TranslatedMessages(NamedTuple):
    """`paths` maps fields of the chat to the client's."""

    chat: ChatRequest
    paths: dict[str, str]


def read_messages_request(body: bytes, counted: bool = False) -> TranslatedMessages:
    """`counted`: only the prompt matters. Raises InvalidRequest or Unsupported."""
    values = parse_json(body)
    asked = FIELDS.check(values)
    if asked.max_tokens is None and not counted:
        raise InvalidRequest("max_tokens: Field required", "max_tokens", "missing_required")
    told = _told(asked)
    num_tools = len(asked.tools or ())
    paths = {
        **told.paths,
        **{f"tools.{index}.function.parameters": f"tools.{index}.input_schema" for index in range(num_tools)},
        **{f"tools.{index}.function": f"tools.{index}" for index in range(num_tools)},
        "max_completion_tokens": "max_tokens",
        "stop": "stop_sequences",
        "response_format.json_schema": "output_config.format",
        "response_format": "output_config.format",
        "reasoning_effort": "thinking" if asked.thinking else "output_config.effort",
    }
    return TranslatedMessages(read_chat(_chat_values(asked, told, values), paths), paths)


def _chat_values(asked: MessagesRequest, told: Told, values: dict[str, Any]) -> dict[str, Any]:
    config, choice = asked.output_config or OutputConfig(), asked.tool_choice or {}
    parallel = choice.get("disable_parallel_tool_use")
    return {name: values[name] for name in _SHARED if name in values} | {
        "messages": told.messages,
        "max_tokens": asked.max_tokens,
        "stop": asked.stop_sequences,
        "tools": [_tool(tool, f"tools.{index}") for index, tool in enumerate(asked.tools or ())] or None,
        "tool_choice": None if asked.tool_choice is None else _choice(choice),
        "parallel_tool_calls": None if parallel is None else not parallel,
        "reasoning_effort": _effort(asked.thinking, config.effort),
        "response_format": None if config.format is None else _format(config.format),
    }


def _effort(thinking: dict[str, Any] | None, effort: str | None) -> str | None:
    if thinking is None:
        return effort
    usual = str(known_type(thinking, "thinking", _EFFORTS))
    return usual if usual == "none" else effort or usual


def _format(form: dict[str, Any]) -> dict[str, Any]:
    if form.get("type") != "json_schema":
        refuse_type(form, "output_config.format", {"json_schema": None})
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form.get("schema")}}


def _tool(tool: dict[str, Any], path: str) -> dict[str, Any]:
    if tool.get("type", "custom") not in ("custom", None):
        refuse_type(tool, path, {"custom": None})
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    return {
        "type": "function",
        "function": function | {key: tool[key] for key in ("description", "strict") if key in tool},
    }


def _choice(choice: dict[str, Any]) -> Any:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": text_of(choice, "name", "tool_choice")}}
    return known_type(choice, "tool_choice", _CHOICES)


def _told(asked: MessagesRequest) -> Told:
    told = Told()
    if asked.system is not None:
        content = parts_of(asked.system, "system", {"text": _text_part})
        told.add("system", "system", role="system", content=_joined(content))
    for index, message in enumerate(asked.messages):
        path = f"messages.{index}"
        role = message.get("role")
        if role not in ("user", "assistant", "system"):
            raise InvalidRequest("role must be user or assistant", f"{path}.role")
        blocks = _blocks(message.get("content"), f"{path}.content")
        if role == "assistant":
            _add_assistant(told, blocks, path)
        else:
            _add_user(told, str(role), blocks, path)
    return told


def _blocks(content: Any, path: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise InvalidRequest("content must be a text or a list of blocks", path)
    return content


def _add_user(told: Told, role: str, blocks: list[dict[str, Any]], path: str) -> None:
    """Results of tools are messages of their own in a chat, and come first, as Anthropic wants them."""
    rest = []
    for index, block in enumerate(blocks):
        if block.get("type") != "tool_result":
            rest.append(block)
            continue
        where = f"{path}.content.{index}"
        content = _joined(parts_of(block.get("content", ""), f"{where}.content", _PARTS))
        if block.get("is_error") and isinstance(content, str):
            content = f"Error: {content}"
        told.add(where, role="tool", tool_call_id=text_of(block, "tool_use_id", where), content=content)
    if rest:
        told.add(path, role=role, content=_joined(parts_of(rest, f"{path}.content", _PARTS)))


def _add_assistant(told: Told, blocks: list[dict[str, Any]], path: str) -> None:
    texts, thinking, calls = [], [], []
    for index, block in enumerate(blocks):
        where = f"{path}.content.{index}"
        kind = block.get("type")
        if kind == "text":
            texts.append(text_of(block, "text", where))
        elif kind == "thinking":
            thinking.append(text_of(block, "thinking", where))
        elif kind == "tool_use":
            name, call_id = text_of(block, "name", where), text_of(block, "id", where)
            calls.append(call_of(call_id, name, to_json(block.get("input") or {}, f"{where}.input").decode()))
        elif kind != "redacted_thinking":
            refuse_type(block, where, {"text": None, "thinking": None, "tool_use": None})
    more: dict[str, Any] = {"reasoning": "".join(thinking)} if thinking else {}
    if calls:
        more["tool_calls"] = calls
    told.add(path, role="assistant", content="".join(texts) if texts or not calls else None, **more)


def _joined(content: Any) -> Any:
    """Blocks of text only are one text: not every template takes parts everywhere."""
    if isinstance(content, list) and all(part["type"] == "text" for part in content):
        return "\n".join(part["text"] for part in content)
    return content


def _text_part(block: dict[str, Any], path: str) -> dict[str, Any]:
    return {"type": "text", "text": text_of(block, "text", path)}


def _image_part(block: dict[str, Any], path: str) -> dict[str, Any]:
    source = block.get("source")
    if not isinstance(source, dict):
        raise InvalidRequest("source is required", f"{path}.source", "missing_required")
    if source.get("type") == "base64":
        kind, data = text_of(source, "media_type", f"{path}.source"), text_of(source, "data", f"{path}.source")
        return {"type": "image_url", "image_url": f"data:{kind};base64,{data}"}
    if source.get("type") != "url":
        raise Unsupported("an image source must be of type base64 or url", f"{path}.source.type")
    return {"type": "image_url", "image_url": text_of(source, "url", f"{path}.source")}


_PARTS = {"text": _text_part, "image": _image_part}
