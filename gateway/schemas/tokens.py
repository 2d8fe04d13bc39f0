"""Counting tokens: vLLM's /tokenize and /detokenize, and /v1/count_tokens, as values of `tokenizer`'s tensors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, model_validator

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas.chat import ChatRequest
from gateway.schemas.common import BodyFields, RequestSchema, validate
from gateway.schemas.messages import MEDIA_KINDS, ChatMessage, Limits, read_prompt
from gateway.schemas.sampling import to_json
from gateway.schemas.shapes import TEXT, list_of, one_of
from gateway.schemas.tools import Tool
from gateway.tensors import Value

NOT_SUPPORTED: dict[str, tuple[object, ...]] = {
    "return_token_strs": (False,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": (),
}


class TokenizeRequest(RequestSchema):
    """One of `prompt` and `messages`; the special tokens of a conversation are those of its template."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None

    @model_validator(mode="after")
    def _check_source(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("exactly one of prompt and messages is required", "prompt")
        if self.messages is not None and self.add_special_tokens:
            raise Unsupported("the template decides on them for messages", "add_special_tokens")
        return self


class DetokenizeRequest(RequestSchema):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=-(2**31), lt=2**31)]] = Field(min_length=1, max_length=2**20)


_MESSAGE = ChatMessage.model_json_schema()


class CountRequest(RequestSchema):
    """`conversation` is a text, or the messages of a chat."""

    model: str | None = None
    conversation: Annotated[Any, WithJsonSchema(one_of(TEXT, list_of(_MESSAGE, minItems=1)))]


class EmbeddingsRequest(RequestSchema):
    """Of a request that is refused, only what tells which way."""

    model: str | None = None


EMBEDDINGS = BodyFields(EmbeddingsRequest, {}, ("input", "encoding_format", "dimensions", "user"))
TOKENIZE = BodyFields(TokenizeRequest, NOT_SUPPORTED)
DETOKENIZE = BodyFields(DetokenizeRequest, NOT_SUPPORTED)
COUNT = BodyFields(CountRequest, NOT_SUPPORTED)


def count_as_tokenize(request: CountRequest) -> TokenizeRequest:
    source = "prompt" if isinstance(request.conversation, str) else "messages"
    return validate(TokenizeRequest, {"model": request.model, source: request.conversation})


def tokenize_of_chat(chat: ChatRequest) -> TokenizeRequest:
    """The prompt of a chat; its images, if it has any, are refused by `tokenize_inputs`."""
    return TokenizeRequest.model_construct(model=chat.model, messages=chat.messages, tools=chat.tools)


def tokenize_inputs(request: TokenizeRequest) -> dict[str, Value]:
    """Raises InvalidRequest, and Unsupported for images: how many tokens one has is known after its encoding only."""
    if request.prompt is not None:
        return {"text": request.prompt, "add_special_tokens": request.add_special_tokens is not False}
    assert request.messages is not None
    if any(isinstance(message.content, list) and _has_image(message.content) for message in request.messages):
        raise Unsupported("The tokens of images and videos are not counted.", "messages")
    inputs: dict[str, Value] = {
        "messages": read_prompt(request.messages, Limits(0, 0), Limits(0, 0)).messages,
        "add_generation_prompt": request.add_generation_prompt is not False,
    }
    if request.tools:
        inputs["tools"] = to_json([tool.model_dump(exclude_unset=True) for tool in request.tools], "tools")
    return inputs


def _has_image(parts: list[Any]) -> bool:
    return any(isinstance(part, dict) and not MEDIA_KINDS.keys().isdisjoint(part) for part in parts)
