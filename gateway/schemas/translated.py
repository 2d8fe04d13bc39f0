"""Requests of other APIs, told as a chat: there is one way from a chat to the model, and this leads into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gateway.errors import GatewayError, InvalidRequest, Unsupported, path_under
from gateway.schemas.chat import ChatPlan, ChatRequest
from gateway.schemas.common import validate

# Fields beyond both APIs that mean here what they mean in a chat.
EXTENSIONS = (
    "top_k",
    "min_p",
    "seed",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "bad_words",
    "ignore_eos",
    "stop_token_ids",
    "priority",
    "cache_salt",
    "timeout_s",
    "chat_template_kwargs",
    "structured_outputs",
)


@dataclass
class Told:
    """Messages of a chat as they are translated, and under which path the client wrote each."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, content_path: str = "", **message: Any) -> None:
        """`content_path` is where the content stands, if not in `content` under `path`."""
        index = f"messages.{len(self.messages)}"
        self.paths[index] = path
        self.paths[f"{index}.content"] = content_path or f"{path}.content"
        self.messages.append(message)

    def open_assistant(self, path: str) -> dict[str, Any]:
        """The last message if it is the assistant's, else a new one: templates want one message per turn."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add(path, role="assistant", content=None)
        return self.messages[-1]


def call_of(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


@contextmanager
def in_words_of(paths: Mapping[str, str]) -> Iterator[None]:
    """Errors inside name the client's own fields: `paths` maps those of the chat to them."""
    try:
        yield
    except GatewayError as error:
        raise error.under(paths) from None


def read_chat(values: Mapping[str, Any], paths: Mapping[str, str]) -> ChatRequest:
    """The translated request; a value of None is as one left out. Raises InvalidRequest in the client's words."""
    with in_words_of(paths):
        return validate(ChatRequest, {name: value for name, value in values.items() if value is not None})


def wire_names(plan: ChatPlan, paths: Mapping[str, str]) -> dict[str, str]:
    """The client's names for fields that the model complains of."""
    return {**paths, **{name: path_under(chat_name, paths) for name, chat_name in plan.names.items()}}


def parts_of(content: Any, path: str, translate: Mapping[str, Any]) -> Any:
    """Content as a chat has it: a text, or parts, each by the function that `translate` has for its type."""
    if not isinstance(content, list):
        return content
    parts = []
    for index, part in enumerate(content):
        where = f"{path}.{index}"
        if not isinstance(part, dict):
            raise InvalidRequest("a content part must be an object", where)
        parts.append(known_type(part, where, translate)(part, where))
    return parts


def known_type(value: Mapping[str, Any], path: str, known: Mapping[str, Any], default: str | None = None) -> Any:
    """What `known` has for the type of `value`. Raises Unsupported for any other."""
    kind = value.get("type") or default
    if not isinstance(kind, str) or kind not in known:
        refuse_type(value, path, known)
    return known[kind]


def refuse_type(value: Mapping[str, Any], path: str, known: Mapping[str, Any]) -> NoReturn:
    names = ", ".join(name for name in known if name)
    raise Unsupported(f"type {str(value.get('type'))[:50]!r} is not supported here, only {names}", f"{path}.type")


def text_of(value: Mapping[str, Any], key: str, path: str) -> str:
    """Raises InvalidRequest unless `key` is there and holds a text."""
    text = value.get(key)
    if not isinstance(text, str):
        raise InvalidRequest(f"{key} must be a text", f"{path}.{key}")
    return text
