"""POST /v1/completions: prompts that are finished texts or token ids, each with answers of its own."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from gateway.errors import InvalidRequest, Unsupported
from gateway.schemas import sampling
from gateway.schemas.common import BodyFields
from gateway.schemas.guides import GuideFields, read_guide
from gateway.schemas.sampling import SamplingFields, sampling_inputs
from gateway.schemas.shapes import NONEMPTY, list_of, one_of
from gateway.tensors import Value

# Each is a request of its own to the model, so this bounds what one permit can ask for.
MAX_PROMPTS = 64

NOT_SUPPORTED: dict[str, tuple[object, ...]] = {
    **sampling.NOT_SUPPORTED,
    "suffix": ("",),
    "add_special_tokens": (True,),
    "prompt_embeds": (),
}


_IDS = list_of({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, minItems=1)
_PROMPTS = one_of(NONEMPTY, _IDS, list_of(one_of(NONEMPTY, _IDS), minItems=1, maxItems=MAX_PROMPTS))


class CompletionRequest(SamplingFields, GuideFields):
    """The fields that the gateway honours; `max_tokens` is OpenAI's 16 unless it is said, null is the whole context."""

    prompt: Annotated[Any, WithJsonSchema(_PROMPTS)]
    max_tokens: int | None = Field(16, ge=1, lt=2**31)
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: Any) -> list[str | list[int]]:
        prompts = value if isinstance(value, list) and not _is_ids(value) else [value]
        if not prompts or not all(isinstance(prompt, str) or _is_ids(prompt) for prompt in prompts):
            raise ValueError("must be a text, token ids, or a list of one of them, and not empty")
        if "" in prompts:
            raise ValueError("an empty text leaves the model nothing to continue")
        if len(prompts) > MAX_PROMPTS:
            raise ValueError(f"holds {len(prompts)} prompts, at most {MAX_PROMPTS} are allowed")
        return prompts

    @model_validator(mode="after")
    def _check_together(self) -> CompletionRequest:
        if self.best_of not in (None, self.num):
            raise Unsupported("best_of can only be n", "best_of")
        if self.echo and self.logprobs is not None:
            raise Unsupported("echo cannot be combined with logprobs: those of a prompt are not computed", "echo")
        return self


FIELDS = BodyFields(CompletionRequest, NOT_SUPPORTED, sampling.IGNORED)


class CompletionPlan(NamedTuple):
    """What `llm` is asked for each prompt, and the client's names for the wire's fields."""

    inputs: list[dict[str, Value]]
    names: dict[str, str]


def plan_completion(request: CompletionRequest) -> CompletionPlan:
    """Raises InvalidRequest for more than one form."""
    guide = read_guide(request)
    common: dict[str, Value] = {"stream": bool(request.stream)}
    common |= sampling_inputs(request, top_logprobs=request.logprobs)
    if request.logprobs is not None:
        common["return_log_probs"] = True
    names = {"messages": "prompt", "input_ids": "prompt"}
    if guide is not None:
        common |= guide.inputs
        names["response_format"] = guide.field
    return CompletionPlan([_prompt_input(prompt) | common for prompt in request.prompt], names)


def text_prompts(request: CompletionRequest) -> list[str]:
    """What `echo` says before the answers. Raises InvalidRequest for token ids, whose text only the model knows."""
    prompts = [prompt for prompt in request.prompt if isinstance(prompt, str)]
    if len(prompts) < len(request.prompt):
        raise InvalidRequest("echo needs prompts that are texts", "echo")
    return prompts


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(type(token) is int and 0 <= token < 2**31 for token in value)


def _prompt_input(prompt: str | list[int]) -> dict[str, Value]:
    return {"text_input": prompt} if isinstance(prompt, str) else {"input_ids": prompt}
