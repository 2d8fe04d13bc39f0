"""Model Garden's requests: load a checkpoint, generate from a prompt."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator

from gateway.schemas import completions, sampling
from gateway.schemas.common import BodyFields, RequestSchema
from gateway.schemas.completions import CompletionRequest
from gateway.schemas.shapes import NONEMPTY


class LoadRequest(RequestSchema):
    """Beside the path, parameters of the `llm` entry under their own names, see docs/contracts.md."""

    model_path: str = Field(min_length=1, max_length=4096)
    served_model_name: str | None = Field(None, min_length=1, max_length=512)
    tensor_parallel_size: int | None = Field(None, ge=1, le=1024)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    quantization: str | None = None
    max_model_len: int | None = Field(None, ge=1, lt=2**31)
    dtype: str | None = None
    max_num_seqs: int | None = Field(None, ge=1, lt=2**31)
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    input_modalities: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """What was said, as the texts that parameters are."""
        said = self.model_dump(exclude={"model_path"}, exclude_none=True)
        return {name: str(value) for name, value in said.items()}


class GenerateRequest(CompletionRequest):
    """One prompt and one answer; for more there is /v1/completions."""

    prompt: Annotated[Any, WithJsonSchema(NONEMPTY)]
    max_tokens: int | None = Field(256, ge=1, lt=2**31)
    n: int | None = Field(None, ge=1, le=1)

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be a text")
        return value


LOAD = BodyFields(LoadRequest)
_NOT_HERE: dict[str, tuple[object, ...]] = {"echo": (False,), "logprobs": ()}
GENERATE = BodyFields(GenerateRequest, completions.NOT_SUPPORTED | _NOT_HERE, sampling.IGNORED)
