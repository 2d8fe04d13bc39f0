"""Chat completions: the request's fields, and how they become the values of `llm`'s tensors and a way to read answers.

Knows OpenAI's and vLLM's names and ranges and the contract's names; knows no chat template.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from gateway.answers.reader import AnswerFormat
from gateway.discovery import ServedModel
from gateway.errors import InvalidRequest, Unsupported
from gateway.reasoning import FORMATS
from gateway.schemas import sampling
from gateway.schemas.common import BodyFields, parse_json
from gateway.schemas.guides import Guide, GuideFields, after_thinking, either, read_guide
from gateway.schemas.messages import ChatMessage, Prompt
from gateway.schemas.sampling import SamplingFields, sampling_inputs, to_json
from gateway.schemas.tools import ToolFields, ToolUse, read_tool_use
from gateway.tensors import Value

# Fields that would change the answer and cannot be honoured, with the values that ask for nothing.
NOT_SUPPORTED: dict[str, tuple[object, ...]] = {
    **sampling.NOT_SUPPORTED,
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    "best_of": (1,),
    "echo": (False,),
    "add_special_tokens": (False,),
    "chat_template": (),
    "include_reasoning": (True,),
    "mm_processor_kwargs": (),
    "media_io_kwargs": (),
}
# OpenAI's first form of tools, given up in 2023.
REPLACED = {"functions": ("tools", ()), "function_call": ("tool_choice", ("none",))}

IGNORED = (
    *sampling.IGNORED,
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
)


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(SamplingFields, GuideFields, ToolFields):
    """The fields of POST /v1/chat/completions that the gateway honours; `max_tokens` counts tokens."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", "top_logprobs")
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequest("cannot be combined with add_generation_prompt", "continue_final_message")
        return self

    @property
    def max_tokens_field(self) -> str:
        """The name under which the client gave the limit; max_completion_tokens wins when both are sent."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


FIELDS = BodyFields(
    ChatRequest, {**NOT_SUPPORTED, **{name: harmless for name, (_, harmless) in REPLACED.items()}}, IGNORED
)


class ChatPlan(NamedTuple):
    """What `llm` is asked, how its answers are read, and the client's names for the wire's fields."""

    inputs: dict[str, Value]
    form: AnswerFormat
    names: dict[str, str]


def read_chat_request(body: bytes) -> ChatRequest:
    """Raises InvalidRequest or Unsupported."""
    values = parse_json(body)
    for name, (newer, harmless) in REPLACED.items():
        if values.get(name) is not None and values[name] not in harmless:
            raise Unsupported(f"{name} is deprecated and not supported; send {newer}", name)
    return FIELDS.check(values)


def plan_chat(chat: ChatRequest, prompt: Prompt, model: ServedModel) -> ChatPlan:
    """Raises InvalidRequest, and Unsupported for what this model cannot do."""
    if prompt.images and "image" not in model.input_modalities:
        raise Unsupported(f"The model {model.ids[0]!r} takes no images.", "messages")
    if prompt.videos and "video" not in model.input_modalities:
        raise Unsupported(f"The model {model.ids[0]!r} takes no videos.", "messages")
    tools = read_tool_use(chat, model.tool_call_parser, model.ids[0])
    template, thinking = _template_arguments(chat, model)
    guide = _one_guide(read_guide(chat), tools)
    if guide is not None and guide.from_start and thinking:
        guide = after_thinking(guide)
    max_calls = 1 if tools and tools.single else None
    form = AnswerFormat(thinking, tools and tools.parser, max_calls)
    names = {"max_tokens": chat.max_tokens_field} | ({} if guide is None else {"response_format": guide.field})
    return ChatPlan(_inputs(chat, prompt, tools, guide, template, form), form, names)


def _one_guide(guide: Guide | None, tools: ToolUse | None) -> Guide | None:
    if guide is None or tools is None or tools.demanded:
        # A demanded call is the whole answer, whatever form another answer would have.
        return guide if tools is None else tools.guide
    return either(guide, tools.calls(at_least_one=True))


def _template_arguments(chat: ChatRequest, model: ServedModel) -> tuple[dict[str, Any], bool]:
    """The arguments of the chat template, and whether the answer begins with thinking."""
    arguments = dict(chat.chat_template_kwargs or {})
    if chat.add_generation_prompt is not None or chat.continue_final_message:
        arguments["add_generation_prompt"] = bool(chat.add_generation_prompt)
    if chat.continue_final_message:
        arguments["continue_final_message"] = True
    if chat.documents is not None:
        arguments["documents"] = chat.documents
    effort, form = chat.reasoning_effort, FORMATS.get(model.reasoning_parser)
    if form is None:
        if effort not in (None, "none"):
            raise Unsupported(f"The model {model.ids[0]!r} has no reasoning_parser.", "reasoning_effort")
        return arguments, False
    if effort is not None:
        arguments = form.switched(effort != "none") | {"reasoning_effort": effort} | arguments
    # An answer that goes on from the client's own text is past its thinking.
    return arguments, form.starts_thinking(arguments) and not chat.continue_final_message


def _inputs(
    chat: ChatRequest,
    prompt: Prompt,
    tools: ToolUse | None,
    guide: Guide | None,
    template: dict[str, Any],
    form: AnswerFormat,
) -> dict[str, Value]:
    """A field that the client left out is left out here too."""
    # The marks of calls and of thinking are special tokens in some checkpoints.
    skip_special = None if form.is_plain else False
    drawn = sampling_inputs(chat, top_logprobs=chat.top_logprobs, skip_special_tokens=skip_special)
    if chat.max_completion_tokens is not None:
        drawn["max_tokens"] = chat.max_completion_tokens
    optional: dict[str, Value | None] = {
        "image": prompt.images or None,
        "video": prompt.videos or None,
        "tools": tools and tools.tools,
        "return_log_probs": chat.logprobs or None,
        "chat_template_kwargs": to_json(template, "chat_template_kwargs") if template else None,
    }
    # Token by token also for a plain answer that begins with thinking, to count the tokens of each part.
    required: dict[str, Value] = {"messages": prompt.messages, "stream": bool(chat.stream) or form.thinking}
    given = {name: value for name, value in optional.items() if value is not None}
    return required | drawn | given | ({} if guide is None else guide.inputs)
