"""What the routes of OpenAI, vLLM and Model Garden answer, for /openapi.json; no code makes an answer from these types.

Every key is named: a test compares the answers with them, and a key that is not here fails it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict
from typing_extensions import NotRequired, TypedDict

_EXACT = ConfigDict(extra="forbid")
FinishReason = Literal["stop", "length", "tool_calls"]


class Answer(TypedDict):
    __pydantic_config__ = _EXACT  # type: ignore[misc]


class ErrorObject(Answer):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Answer):
    """OpenAI's; `param` is the dotted path of the field at fault, `code` a word for programs."""

    error: ErrorObject


class PromptDetails(Answer):
    cached_tokens: int
    image_tokens: int
    audio_tokens: NotRequired[int]
    transcribed_by: NotRequired[str]


class CompletionDetails(Answer):
    reasoning_tokens: int


class ChatUsage(Answer):
    """Times are in seconds, and there only at the end of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    processing_time: NotRequired[float]
    first_token_time: NotRequired[float]
    tokens_per_second: NotRequired[float | None]


class CalledFunction(Answer):
    name: str
    arguments: str


class ToolCall(Answer):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Answer):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class OtherToken(Answer):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprobs(OtherToken):
    """As the model tells them; bytes are those of the token."""

    top_logprobs: NotRequired[list[OtherToken]]


class ChoiceLogprobs(Answer):
    content: list[TokenLogprobs]
    refusal: NotRequired[None]


class ChatChoice(Answer):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | None


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class FunctionDelta(Answer):
    name: NotRequired[str]
    arguments: str


class CallDelta(Answer):
    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(Answer):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[CallDelta]]


class ChunkChoice(Answer):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[str | None]


class ChatCompletionChunk(Answer):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[ChatUsage]


class ListedLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    index: int
    text: str
    logprobs: ListedLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | None


class TextCompletion(Answer):
    """Also one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[ChatUsage]


class Generated(Answer):
    text: str
    usage: ChatUsage
    finish_reason: FinishReason
    model: str


class GeneratedPiece(Answer):
    text: str
    finish_reason: FinishReason | None


class Tokens(Answer):
    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: None


class Prompt(Answer):
    prompt: str


class TokenCount(Answer):
    model: str
    count: int


class ModelCard(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    ready: bool
    capabilities: list[str]
    input_modalities: list[str]
    max_model_len: int | None
    root: str
    aliases: list[str]


class ModelList(Answer):
    object: Literal["list"]
    data: list[ModelCard]


class SecondsUsed(Answer):
    type: Literal["duration"]
    seconds: int


class Transcription(Answer):
    text: str
    logprobs: NotRequired[list[TokenLogprobs]]
    usage: SecondsUsed


class VerboseTranscription(Answer):
    """`words` and `segments` are as the model tells them; times in seconds."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    words: NotRequired[list[dict[str, Any]]]
    segments: NotRequired[list[dict[str, Any]]]
    usage: SecondsUsed


class InputDetails(Answer):
    audio_tokens: int
    text_tokens: int


class TranscriptUsage(Answer):
    type: Literal["tokens"]
    input_tokens: int
    input_token_details: InputDetails
    output_tokens: int
    total_tokens: int


class TranscriptDelta(Answer):
    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: NotRequired[list[TokenLogprobs]]


class TranscriptDone(Answer):
    type: Literal["transcript.text.done"]
    text: str
    logprobs: NotRequired[list[TokenLogprobs]]
    usage: TranscriptUsage


TranscriptEvent = TranscriptDelta | TranscriptDone


class LoadState(Answer):
    job_id: str
    status: Literal["loading", "loaded", "failed"]
    model_path: str
    error: str | None
    seconds: float


class LoadReply(Answer):
    success: Literal[True]
    data: LoadState
    message: str


class Unloaded(Answer):
    model: str
    status: Literal["unloaded"]


class UnloadReply(Answer):
    success: Literal[True]
    data: Unloaded
    message: str


class LoadedModel(Answer):
    id: str
    entry: str
    unready: list[str]
    max_model_len: int | None


class InferenceStatus(Answer):
    is_loaded: bool
    model_path: str | None
    timestamp: str
    loaded: bool
    loading: bool
    model_info: LoadedModel | None
    job: LoadState | None


class Status(Answer):
    status: Literal["live", "ready"]


class ModelHealth(Answer):
    task: str
    ready: bool
    entries: dict[str, str]


class Health(Answer):
    status: Literal["ready", "unready"]
    trouble: str | None
    triton: Literal["live", "down"]
    models: dict[str, ModelHealth]
