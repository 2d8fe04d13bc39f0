"""The installed TensorRT-LLM, or a sentence that says why there is none that the engine can use."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from packaging.version import Version

from python_backends.tensorrt_llm_engine.arguments import OLDEST


@dataclass(frozen=True)
class Library:
    """What the engine uses of `tensorrt_llm`; `tensor` makes a float32 tensor of a list or an array."""

    version: Version
    llm: Any
    sampling_params: Callable[..., Any]
    kv_cache_config: Callable[..., Any]
    guided_decoding_params: Callable[..., Any]
    lora_config: Callable[..., Any]
    lora_request: Callable[..., Any]
    tensor: Callable[[Any], Any]


def load_library() -> Library:
    """Import TensorRT-LLM. Raises ImportError or ValueError, saying what is missing."""
    try:
        package, llmapi = import_module("tensorrt_llm"), import_module("tensorrt_llm.llmapi")
        # LoraConfig has moved between versions; where it is a type of an argument it always is.
        llm_args = import_module("tensorrt_llm.llmapi.llm_args")
        request = import_module("tensorrt_llm.executor.request")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the engine tensorrt_llm needs the package tensorrt-llm {OLDEST} or newer, and a module is missing: "
            f"{error.name}. NVIDIA's images tritonserver:*-trtllm-python-py3 have it"
        ) from error
    return Library(
        checked_version(package.__version__),
        llmapi.LLM,
        llmapi.SamplingParams,
        llmapi.KvCacheConfig,
        llmapi.GuidedDecodingParams,
        llm_args.LoraConfig,
        request.LoRARequest,
        _float_tensor,
    )


def checked_version(text: str) -> Version:
    """Raises ValueError for a version whose LLM API is older than what the engine was written for."""
    version = Version(text)
    if version < OLDEST:
        raise ValueError(f"the engine tensorrt_llm needs TensorRT-LLM {OLDEST} or newer, found {text}")
    return version


def check_call(library: Library, function: Callable[..., Any], names: Iterable[str]) -> None:
    """Raises ValueError if the installed library takes no argument of one of the `names`."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if missing := [name for name in names if name not in parameters]:
        called = getattr(function, "__qualname__", repr(function))
        raise ValueError(f"TensorRT-LLM {library.version} lacks {', '.join(missing)} of {called}")


def _float_tensor(values: Any) -> Any:
    # The library brings its own torch; an engine that is not chosen imports none.
    torch = import_module("torch")
    return torch.as_tensor(values, dtype=torch.float32)
