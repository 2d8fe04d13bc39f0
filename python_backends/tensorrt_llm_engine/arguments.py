"""The project's options and requests as keyword arguments of TensorRT-LLM's LLM API.

Plain dictionaries: nothing of the library is imported, so a test can hold every name against a recorded description of
the library. What a version cannot do is refused here by name, and never left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from llguidance import LLMatcher
from packaging.version import Version

from python_backends.engine import EngineOptions
from python_backends.errors import InvalidInput, Unsupported
from python_backends.torch_engine.grammar import write_grammar
from python_backends.types import GenerationRequest, Guide, ImageSpan, SamplingParams

OLDEST = Version("1.2.1")
# The first version whose documentation shows the feature for the PyTorch backend, which before took the parameter and
# did nothing. A seed per request came with NVIDIA/TensorRT-LLM#17172.
_SINCE = {
    "min_p": Version("1.3.0rc24"),
    "repetition_penalty": Version("1.3.0rc24"),
    "presence_penalty": Version("1.3.0rc24"),
    "frequency_penalty": Version("1.3.0rc24"),
    "image": Version("1.3.0rc24"),
    "seed": Version("1.4.0"),
}
_NEUTRAL = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_BANNED = float("-inf")


def llm_arguments(options: EngineOptions, max_model_len: int) -> dict[str, Any]:
    """Of `LLM(...)`, but for `kv_cache_config`. Raises ValueError for an option that the library cannot follow."""
    if options.quantization != "none":
        raise ValueError(
            f"parameter 'quantization' is {options.quantization!r}; the engine tensorrt_llm quantizes nothing while "
            "loading: give it a checkpoint that is quantized already (FP8, NVFP4 or AWQ of NVIDIA's ModelOpt)"
        )
    return {
        "model": options.model,
        "backend": "pytorch",
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code,
        "tensor_parallel_size": options.tensor_parallel_size,
        "max_batch_size": options.max_num_seqs,
        "max_num_tokens": options.max_num_batched_tokens,
        "max_seq_len": max_model_len,
        # Without, a prompt of more than max_num_tokens tokens is an error.
        "enable_chunked_prefill": True,
        # Without a backend guides are ignored. This one reads the same grammars as the engine torch.
        "guided_decoding_backend": "llguidance",
    }


def kv_cache_arguments(options: EngineOptions) -> dict[str, Any]:
    """Of `KvCacheConfig(...)`; both bounds hold where both are given."""
    size = {"max_gpu_total_bytes": options.kv_cache_bytes} if options.kv_cache_bytes else {}
    return {
        "enable_block_reuse": options.enable_prefix_caching,
        "free_gpu_memory_fraction": options.gpu_memory_utilization,
        **size,
    }


def sampling_arguments(
    sampling: SamplingParams,
    index: int,
    num_prompt_tokens: int,
    max_tokens: int,
    eos_token_ids: tuple[int, ...],
    version: Version,
) -> dict[str, Any]:
    """Of `SamplingParams(...)` for the request's sequence `index`, but for embedding_bias and guided_decoding.

    Raises Unsupported for what this version would take and not do.
    """
    _check_supported(sampling, version)
    ends_by_itself = not sampling.ignore_eos or sampling.guide is not None
    more_ends = eos_token_ids[1:] if ends_by_itself else ()
    arguments: dict[str, Any] = {
        "max_tokens": max_tokens,
        # With an end_id the library reads no stop tokens from the checkpoint behind our back; -1 is its own for none.
        "end_id": eos_token_ids[0] if eos_token_ids else -1,
        "pad_id": eos_token_ids[0] if eos_token_ids else 0,
        "ignore_eos": not ends_by_itself,
        "stop_token_ids": sorted({*sampling.stop_token_ids, *more_ends}) or None,
        # Else the token that ended the text is cut off the ids. Text is made by the entry.
        "include_stop_str_in_output": True,
        "detokenize": False,
        "add_special_tokens": False,
        "logprobs": max(1, sampling.top_logprobs) if sampling.logprobs else None,
    }
    if sampling.min_tokens:
        arguments["min_tokens"] = sampling.min_tokens
    return {**arguments, **_drawing(sampling, index), **_penalties(sampling, num_prompt_tokens)}


def embedding_bias(sampling: SamplingParams) -> dict[int, float]:
    """What is added to the logits, by token: logit_bias, and minus infinity for bad words of one token."""
    return {**sampling.logit_bias, **{ids[0]: _BANNED for ids in sampling.bad_words_ids}}


def guide_arguments(guide: Guide, specials: Mapping[str, int]) -> dict[str, str]:
    """Of `GuidedDecodingParams(...)`: llguidance gets the grammar that the engine torch would give it.

    Raises InvalidInput for a guide that is wrong, which the library would find out in the middle of a batch.
    """
    try:
        grammar = write_grammar(guide, specials)
    except ValueError as error:  # half a surrogate pair is no text for llguidance
        raise InvalidInput(str(error), "guided_decoding_guide") from error
    if fault := LLMatcher.validate_grammar(grammar):
        raise InvalidInput(fault.strip(), "guided_decoding_guide")
    if guide.kind in ("json", "json_schema"):
        return {"json": json.dumps(json.loads(grammar)["grammars"][0]["json_schema"])}
    return {"grammar": grammar}


def prompt_inputs(request: GenerationRequest, version: Version) -> dict[str, Any]:
    """`inputs` of `generate_async`. The library expands placeholders itself, so each image's run becomes one token."""
    if not request.images:
        return {"prompt_token_ids": list(request.prompt_ids)}
    _check("image", version)
    if any(image.grid[0] > 1 for image in request.images):
        raise Unsupported("TensorRT-LLM gets the features of images only", "video")
    ids: list[int] = []
    rest = 0
    for image in request.images:
        ids += request.prompt_ids[rest : image.start + 1]
        rest = image.end
    ids += request.prompt_ids[rest:]
    return {"prompt_token_ids": ids, "multi_modal_embeddings": {"image": [image.array for image in request.images]}}


def cache_salt(salt: str, images: tuple[ImageSpan, ...]) -> str | None:
    """Whose prefixes may be reused. The library keys blocks by token ids, which are the same for every image."""
    if not images:
        return salt or None
    digest = sha256(salt.encode())
    for image in images:
        digest.update(image.digest + image.start.to_bytes(8, "little"))
    return digest.hexdigest()


def _check_supported(sampling: SamplingParams, version: Version) -> None:
    for name, neutral in _NEUTRAL.items():
        if getattr(sampling, name) != neutral:
            _check(name, version)
    if sampling.seed is not None and not sampling.greedy:
        _check("seed", version)
    if sampling.min_tokens and (sampling.stop_token_ids or sampling.guide):
        other = "a guide" if sampling.guide else "stop_token_ids"
        raise Unsupported(f"TensorRT-LLM does not do min_tokens together with {other}", "min_tokens")
    if any(len(ids) != 1 for ids in sampling.bad_words_ids):
        raise Unsupported("TensorRT-LLM forbids single tokens only, and this word has several", "bad_words")


def _check(feature: str, version: Version) -> None:
    if version < _SINCE[feature]:
        text = f"TensorRT-LLM {version} does not do {feature}; {_SINCE[feature]} does"
        raise Unsupported(text, feature)


def _drawing(sampling: SamplingParams, index: int) -> dict[str, Any]:
    if sampling.greedy:
        # Greedy in every version; temperature 0 is out of range in some.
        return {"top_k": 1}
    drawing: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.top_k > 0:
        drawing["top_k"] = sampling.top_k
    if sampling.top_p < 1:
        drawing["top_p"] = sampling.top_p
    if sampling.min_p > 0:
        drawing["min_p"] = sampling.min_p
    if sampling.seed is not None:
        drawing["seed"] = (sampling.seed + index) % 2**64
    return drawing


def _penalties(sampling: SamplingParams, num_prompt_tokens: int) -> dict[str, Any]:
    names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    wanted = {name: getattr(sampling, name) for name in names if getattr(sampling, name) != _NEUTRAL[name]}
    # Presence and frequency count the output only, which the library does when told to ignore the prompt.
    return {**wanted, "prompt_ignore_length": num_prompt_tokens} if wanted else {}
