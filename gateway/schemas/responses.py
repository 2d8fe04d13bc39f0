"""POST /v1/responses: OpenAI's Responses API, told as a chat. Nothing is stored, so nothing can be referred to."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, WithJsonSchema

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas.chat import ChatRequest, Effort
from gateway.schemas.common import BodyFields, RequestSchema, parse_json
from gateway.schemas.guides import NAME
from gateway.schemas.messages import IMAGE, PIXELS_AND_DETAIL
from gateway.schemas.shapes import NONEMPTY, NULL, OBJECT, TEXT, list_of, object_of, one_of, typed, words
from gateway.schemas.translated import EXTENSIONS, Told, call_of, known_type, parts_of, read_chat, refuse_type, text_of

NOT_SUPPORTED: dict[str, tuple[object, ...]] = {
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "moderation": (),
    "prompt": (),
    "truncation": ("disabled",),
}
# What would need an answer of earlier, and why there is none.
STORED = ("previous_response_id", "conversation")
IGNORED = (
    "access_programs",
    "image",
    "max_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "user",
)
# The same name and meaning as in a chat.
_SHARED = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "stop", *EXTENSIONS)
_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"


# What the functions below accept.
_TEXT_PARTS = [typed(kind, {"text": TEXT}) for kind in ("input_text", "output_text", "text")]
_PART = one_of(
    *_TEXT_PARTS,
    typed("refusal", {"refusal": TEXT}),
    typed("input_image", {"image_url": IMAGE}, PIXELS_AND_DETAIL),
    typed("input_audio", {"input_audio": object_of({"data": NONEMPTY})}),
)
_CONTENT = one_of(TEXT, list_of(_PART))
_MESSAGE = {"type": words("message")}
_ITEM = one_of(
    object_of({"role": words("system", "developer", "user", "tool"), "content": _CONTENT}, _MESSAGE),
    object_of({"role": words("assistant")}, {"content": one_of(_CONTENT, NULL), **_MESSAGE}),
    typed("function_call", {"call_id": TEXT, "name": TEXT, "arguments": TEXT}),
    typed("function_call_output", {"call_id": TEXT, "output": _CONTENT}),
    typed("reasoning", {}, {"content": one_of(list_of(OBJECT), NULL)}),
)
_TOOL = typed(
    "function",
    {"name": {"type": "string", "pattern": NAME}},
    {
        "description": one_of(TEXT, NULL),
        "parameters": one_of(OBJECT, NULL),
        "strict": one_of({"type": "boolean"}, NULL),
    },
)
_NAMED = typed("function", {"name": TEXT})
_ALLOWED = typed("allowed_tools", {"mode": words("auto", "required"), "tools": list_of(_NAMED, minItems=1)})
_CHOICE = one_of(words("none", "auto", "required"), _NAMED, _ALLOWED, NULL)
_FORMAT = one_of(
    object_of({"type": words("text", "json_object")}),
    typed("json_schema", {"name": {"type": "string", "pattern": NAME}, "schema": OBJECT}),
    typed("structural_tag", {"format": OBJECT}),
)


class TextConfig(RequestSchema):
    format: dict[str, Any] | None = Field(None, json_schema_extra={"anyOf": [_FORMAT, NULL]})
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(RequestSchema):
    """A summary may be asked for and is never written: the thinking itself is in the answer."""

    effort: Effort | None = None


class ResponsesRequest(RequestSchema):
    """The fields that are not those of a chat; `max_output_tokens` counts tokens."""

    input: Annotated[Any, WithJsonSchema(one_of(TEXT, list_of(_ITEM, minItems=1)))]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: list[dict[str, Any]] | None = Field(None, json_schema_extra={"anyOf": [list_of(_TOOL), NULL]})
    tool_choice: Annotated[Any, WithJsonSchema(_CHOICE)] = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None


FIELDS = BodyFields(ResponsesRequest, NOT_SUPPORTED | dict.fromkeys(STORED, ()), IGNORED, (ChatRequest, _SHARED))


class TranslatedResponse(NamedTuple):
    """`paths` maps fields of the chat to the client's; `values` is the body as the client sent it."""

    chat: ChatRequest
    paths: dict[str, str]
    values: dict[str, Any]


def read_responses_request(body: bytes) -> TranslatedResponse:
    """Raises InvalidRequest or Unsupported."""
    values = parse_json(body)
    for name in STORED:
        if values.get(name) is not None:
            raise Unsupported("answers are not stored here; send the items of earlier turns as input", name)
    asked = FIELDS.check(values)
    if asked.store:
        raise Unsupported("answers are not stored here; leave store out, or send false", "store")
    told = _messages(asked)
    paths = {
        **told.paths,
        **{f"tools.{index}.function": f"tools.{index}" for index in range(len(asked.tools or ()))},
        "messages": "input",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "response_format.json_schema": "text.format",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
    }
    chat = read_chat(_chat_values(asked, told, values), paths)
    return TranslatedResponse(chat, paths, values)


def _chat_values(asked: ResponsesRequest, told: Told, values: dict[str, Any]) -> dict[str, Any]:
    with_logprobs = bool(asked.top_logprobs) or _LOGPROBS in (asked.include or ())
    return {name: values[name] for name in _SHARED if name in values} | {
        "messages": told.messages,
        "max_completion_tokens": asked.max_output_tokens,
        "response_format": asked.text and asked.text.format and _format(asked.text.format),
        "reasoning_effort": asked.reasoning and asked.reasoning.effort,
        # An empty list is what clients send for no tools.
        "tools": [_tool(tool, f"tools.{index}") for index, tool in enumerate(asked.tools or ())] or None,
        "tool_choice": None if not asked.tools and asked.tool_choice == "auto" else _choice(asked.tool_choice),
        "logprobs": with_logprobs or None,
        "top_logprobs": asked.top_logprobs,
    }


def _format(form: dict[str, Any]) -> dict[str, Any]:
    """Here the schema's fields stand beside the type, in a chat in an object of their own."""
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}


def _tool(tool: dict[str, Any], path: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        refuse_type(tool, path, {"function": None})
    keys = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: tool[key] for key in keys if tool.get(key) is not None}}


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        inner = [_named(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": inner}}
    return _named(choice)


def _named(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    return {"type": choice.get("type"), "function": {"name": choice.get("name")}}


def _messages(asked: ResponsesRequest) -> Told:
    told = Told()
    if asked.instructions is not None:
        told.add("instructions", "instructions", role="system", content=asked.instructions)
    if isinstance(asked.input, str):
        told.add("input", "input", role="user", content=asked.input)
        return told
    if not isinstance(asked.input, list) or not asked.input:
        raise InvalidRequest("must be a text, or a list of items that is not empty", "input")
    for index, item in enumerate(asked.input):
        _add_item(told, item, f"input.{index}")
    return told


def _add_item(told: Told, item: Any, path: str) -> None:
    if not isinstance(item, dict):
        raise InvalidRequest("an item must be an object", path)
    known_type(item, path, _ITEMS, "message")(told, item, path)


def _add_message(told: Told, item: dict[str, Any], path: str) -> None:
    role, content = item.get("role"), parts_of(item.get("content"), f"{path}.content", _PARTS)
    if role != "assistant":
        told.add(path, role=role, content=content)
        return
    # Templates want a text here, and the thinking before it in the same message.
    if isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    last = told.messages[-1] if told.messages else {}
    if last.get("role") == "assistant" and last["content"] is None and "tool_calls" not in last:
        last["content"] = content
    else:
        told.add(path, role=role, content=content)


def _add_call(told: Told, item: dict[str, Any], path: str) -> None:
    values = [text_of(item, key, path) for key in ("call_id", "name", "arguments")]
    told.open_assistant(path).setdefault("tool_calls", []).append(call_of(*values))


def _add_output(told: Told, item: dict[str, Any], path: str) -> None:
    content = parts_of(item.get("output"), f"{path}.output", _PARTS)
    told.add(path, f"{path}.output", role="tool", tool_call_id=text_of(item, "call_id", path), content=content)


def _add_reasoning(told: Told, item: dict[str, Any], path: str) -> None:
    content = item.get("content")
    if not isinstance(content, list | None):
        raise InvalidRequest("must be a list of parts", f"{path}.content")
    parts = [part for part in content or () if isinstance(part, dict)]
    if text := "".join(str(part.get("text", "")) for part in parts):
        told.add(path, role="assistant", content=None, reasoning=text)


def _text_part(part: dict[str, Any], path: str) -> dict[str, Any]:
    return {"type": "text", "text": text_of(part, "text", path)}


def _refusal_part(part: dict[str, Any], path: str) -> dict[str, Any]:
    return {"type": "text", "text": text_of(part, "refusal", path)}


def _image_part(part: dict[str, Any], path: str) -> dict[str, Any]:
    if part.get("image_url") is None:
        raise Unsupported("files are not kept here; send image_url", f"{path}.file_id")
    return {"type": "image_url", **{name: part[name] for name in ("image_url", *PIXELS_AND_DETAIL) if name in part}}


def _audio_part(part: dict[str, Any], path: str) -> dict[str, Any]:
    return {name: part.get(name) for name in ("type", "input_audio")}


_ITEMS = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
    "reasoning": _add_reasoning,
}
_PARTS = {
    "input_text": _text_part,
    "output_text": _text_part,
    "text": _text_part,
    "refusal": _refusal_part,
    "input_image": _image_part,
    "input_audio": _audio_part,
}
