"""What /v1/messages answers, for /openapi.json: Anthropic's message, its events and its errors."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired

from gateway.schemas.answers import Answer

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessagesError(Answer):
    type: str
    message: str


class MessagesErrorReply(Answer):
    """Anthropic's; the field at fault is named in the message."""

    type: Literal["error"]
    error: MessagesError


class TextBlock(Answer):
    type: Literal["text"]
    text: str
    citations: None


class ThinkingBlock(Answer):
    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(Answer):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(Answer):
    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int


class Message(Answer):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class InputTokens(Answer):
    input_tokens: int


class MessageStart(Answer):
    type: Literal["message_start"]
    message: Message


class BlockStart(Answer):
    type: Literal["content_block_start"]
    index: int
    content_block: TextBlock | ThinkingBlock | ToolUseBlock


class BlockPiece(Answer):
    """The key that holds the piece depends on the type."""

    type: Literal["text_delta", "thinking_delta", "input_json_delta"]
    text: NotRequired[str]
    thinking: NotRequired[str]
    partial_json: NotRequired[str]


class BlockDelta(Answer):
    type: Literal["content_block_delta"]
    index: int
    delta: BlockPiece


class BlockStop(Answer):
    type: Literal["content_block_stop"]
    index: int


class MessageEnd(Answer):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Answer):
    type: Literal["message_delta"]
    delta: MessageEnd
    usage: MessageUsage


class Mark(Answer):
    type: Literal["message_stop", "ping"]


MessageEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | Mark | MessagesErrorReply
