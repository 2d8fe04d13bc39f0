"""The engine interface: what the `llm` entry asks of whatever runs the model. Choosing one never imports another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, cast

from python_backends.types import Emit, GenerationRequest


@dataclass(frozen=True)
class EngineOptions:
    """Engine options of docs/contracts.md; 0 means: decide from the checkpoint and the machine.

    `lora_adapters` are folders by the name that a request chooses one by.
    """

    model: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "int8", "int8_weight_only", "int4_weight_only"] = "none"
    max_model_len: int = 0
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    max_waiting: int = 512
    priority_ageing_s: float = 10.0
    kv_cache_bytes: int = 0
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    enable_prefix_caching: bool = True
    trust_remote_code: bool = False
    lora_adapters: dict[str, Any] | None = None
    echo_tokens_per_second: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_waiting", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"parameter {name!r} must be at least 1, got {getattr(self, name)}")
        for name in ("max_model_len", "kv_cache_bytes", "priority_ageing_s", "echo_tokens_per_second"):
            if getattr(self, name) < 0:
                raise ValueError(f"parameter {name!r} must not be negative, got {getattr(self, name)}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(f"parameter 'gpu_memory_utilization' must be in (0, 1], got {self.gpu_memory_utilization}")
        for name, folder in (self.lora_adapters or {}).items():
            if not name or not isinstance(folder, str) or not folder:
                raise ValueError(
                    f"parameter 'lora_adapters' must name a folder for each name, got {name!r}: {folder!r}"
                )


@dataclass(frozen=True)
class EngineStats:
    """What an engine holds at this moment; `cached_tokens` include those in use. Preemptions count from the start."""

    num_running: int = 0
    num_waiting: int = 0
    num_tokens_in_use: int = 0
    num_cached_tokens: int = 0
    cache_capacity: int = 0
    num_preemptions: int = 0


class Engine(Protocol):
    """Generates tokens for many requests at once.

    `emit` is called from the engine's own thread, in order for each request, and must neither block nor raise. Each of
    a request's `sampling.n` sequences ends with exactly one event that has a `finish_reason`; an event with an `error`
    ends them all and is the last.
    """

    max_model_len: int

    @property
    def stats(self) -> EngineStats:
        """A snapshot, cheap and from any thread."""

    def submit(self, request: GenerationRequest, emit: Emit) -> None:
        """Queue a request. Raises ContextOverflow or InvalidInput at once; a full queue may be said by an event."""

    def cancel(self, request_id: int, index: int | None = None) -> None:
        """End a request, or its sequence `index`, within one step with FinishReason.ABORT; unknown ids are ignored."""

    def close(self) -> None:
        """End all requests with FinishReason.ABORT and free what the engine holds."""


_ENGINES = {
    "torch": "python_backends.torch_engine.engine:TorchEngine",
    "echo": "python_backends.echo_engine.engine:EchoEngine",
    "tensorrt_llm": "python_backends.tensorrt_llm_engine.engine:TensorRTLLMEngine",
}
_WITH_ADAPTERS = ("tensorrt_llm",)


def create_engine(name: str, options: EngineOptions) -> Engine:
    """Load the engine `name`; only its own modules are imported. Raises ValueError for what it does not have."""
    if name not in _ENGINES:
        raise ValueError(f"parameter 'engine' has the bad value {name!r}; known are {', '.join(_ENGINES)}")
    if options.lora_adapters and name not in _WITH_ADAPTERS:
        able = ", ".join(_WITH_ADAPTERS)
        raise ValueError(f"parameter 'lora_adapters': the engine {name} has no LoRA, {able} has; or merge the adapter")
    module, _, attribute = _ENGINES[name].partition(":")
    factory = cast(Callable[[EngineOptions], Engine], getattr(import_module(module), attribute))
    return factory(options)
