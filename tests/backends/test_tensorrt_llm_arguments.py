"""What is asked of TensorRT-LLM, held against a recorded description of its LLM API, version by version."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from python_backends.engine import EngineOptions
from python_backends.errors import InvalidInput, Unsupported
from python_backends.tensorrt_llm_engine import arguments
from python_backends.tensorrt_llm_engine.library import check_call, checked_version, load_library
from python_backends.types import GenerationRequest, Guide, ImageSpan, SamplingParams
from tests.backends import tensorrt_llm_stand_in as recorded

OLD, NEW = map(Version, recorded.VERSIONS)
EOS = (1, 7)
OPTIONS = EngineOptions("/models/some", kv_cache_bytes=1 << 30, tensor_parallel_size=2)
EVERYWHERE = SamplingParams(
    max_tokens=5,
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    logit_bias={3: 1.5},
    stop=("stop",),
    stop_token_ids=frozenset({9}),
    bad_words_ids=((4,),),
    logprobs=True,
    top_logprobs=2,
    priority=3,
    n=2,
    guide=Guide("regex", "[a-c]+"),
)
NEWER_ONLY: dict[str, Any] = {
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 11,
}


def asked(sampling: SamplingParams, version: Version, index: int = 0) -> dict[str, Any]:
    return arguments.sampling_arguments(sampling, index, 20, 5, EOS, version)


def everything_asked(version: Version) -> dict[str, list[dict[str, Any]]]:
    """Each function of the library, and calls that together use all that the engine ever says."""
    newest = dataclasses.replace(EVERYWHERE, **NEWER_ONLY) if version == NEW else EVERYWHERE
    plain = SamplingParams(temperature=0.0, min_tokens=3, ignore_eos=True)
    extras = {"embedding_bias": [0.0], "guided_decoding": None}
    guides = [Guide("json"), Guide("regex", "a+"), Guide("choice", '["a"]'), Guide("ebnf_grammar", 'start: "a"')]
    call = {"inputs": {"prompt_token_ids": [1]}, "sampling_params": None, "streaming": True, "cache_salt": "ours"}
    call |= {"lora_request": None}
    lora = {"lora_config": None, "cuda_graph_config": None}
    return {
        "LLM": [{**arguments.llm_arguments(OPTIONS, 4096), "kv_cache_config": None, **lora}],
        "LoraConfig": [dict.fromkeys(("lora_target_modules", "max_lora_rank", "max_loras", "max_cpu_loras"))],
        "LoRARequest": [dict.fromkeys(("lora_name", "lora_int_id", "lora_path"))],
        "KvCacheConfig": [arguments.kv_cache_arguments(OPTIONS)],
        "SamplingParams": [{**asked(newest, version), **extras}, asked(plain, version)],
        "GuidedDecodingParams": [arguments.guide_arguments(guide, {}) for guide in guides],
        "generate_async": [call],
    }


@pytest.mark.parametrize("version", [OLD, NEW], ids=str)
def test_every_argument_is_one_of_the_recorded_version(version: Version) -> None:
    for function, calls in everything_asked(version).items():
        known = recorded.signature(str(version), function)
        for call in calls:
            known.bind(**call)


def test_the_record_notices_an_argument_that_a_version_lacks() -> None:
    with pytest.raises(TypeError, match="prompt_ignore_length"):
        recorded.signature(str(OLD), "SamplingParams").bind(**asked(SamplingParams(presence_penalty=1.0), NEW))
    library = recorded.stand_in(str(OLD))
    with pytest.raises(ValueError, match=r"TensorRT-LLM 1\.2\.1 lacks priority of .*generate_async"):
        check_call(library, library.llm.generate_async, ["inputs", "priority"])


@pytest.mark.gpu
@pytest.mark.skipif(not find_spec("tensorrt_llm"), reason="the package tensorrt_llm is not installed")
def test_the_installed_library_is_as_recorded() -> None:
    library = load_library()
    version = OLD if library.version < Version("1.3.0rc24") else NEW
    functions = {
        "SamplingParams": library.sampling_params,
        "KvCacheConfig": library.kv_cache_config,
        "GuidedDecodingParams": library.guided_decoding_params,
        "generate_async": library.llm.generate_async,
        "LoraConfig": library.lora_config,
        "LoRARequest": library.lora_request,
    }
    for name, calls in everything_asked(version).items():
        if name in functions:
            found = signature(functions[name]).parameters
            said = {key for call in calls for key in call}
            taken = any(each.kind is Parameter.VAR_KEYWORD for each in found.values())
            assert taken or said <= set(found), (name, said - set(found))


@pytest.mark.parametrize("field", [name for name in NEWER_ONLY if name != "seed"])
def test_what_the_older_version_would_ignore_is_refused_by_name(field: str) -> None:
    wanted = SamplingParams(**{field: NEWER_ONLY[field]})
    with pytest.raises(Unsupported, match=rf"TensorRT-LLM 1\.2\.1 does not do {field}; 1\.3\.0rc24 does") as caught:
        asked(wanted, OLD)
    assert caught.value.field == field
    assert asked(wanted, NEW)[field] == NEWER_ONLY[field]


def test_a_seed_is_refused_only_where_something_is_drawn() -> None:
    with pytest.raises(Unsupported, match="does not do seed"):
        asked(SamplingParams(seed=3), OLD)
    assert "seed" not in asked(SamplingParams(seed=3, temperature=0.0), OLD)
    assert [asked(SamplingParams(seed=2**64 - 1, n=2), NEW, index)["seed"] for index in (0, 1)] == [2**64 - 1, 0]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (SamplingParams(min_tokens=2, stop_token_ids=frozenset({3})), "min_tokens"),
        (SamplingParams(min_tokens=2, guide=Guide("json")), "min_tokens"),
        (SamplingParams(bad_words_ids=((3,), (4, 5))), "bad_words"),
    ],
)
def test_what_no_version_does_is_refused(sampling: SamplingParams, field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        asked(sampling, NEW)
    assert caught.value.field == field


def test_greedy_needs_no_temperature() -> None:
    greedy = asked(SamplingParams(temperature=0.0, top_p=0.5, top_k=7), OLD)
    assert greedy["top_k"] == 1 and not {"temperature", "top_p", "seed"} & set(greedy)
    plain = asked(SamplingParams(), OLD)
    assert plain["temperature"] == 1.0 and not {"top_p", "top_k", "min_p"} & set(plain)


def test_ends_are_the_checkpoints_unless_they_are_ignored() -> None:
    free = asked(SamplingParams(stop_token_ids=frozenset({9, 3})), OLD)
    assert (free["end_id"], free["stop_token_ids"], free["ignore_eos"]) == (1, [3, 7, 9], False)
    bound = asked(SamplingParams(ignore_eos=True), OLD)
    assert (bound["stop_token_ids"], bound["ignore_eos"]) == (None, True)
    # A guide says itself where it may end.
    assert not asked(SamplingParams(ignore_eos=True, guide=Guide("json")), OLD)["ignore_eos"]
    assert arguments.sampling_arguments(SamplingParams(), 0, 1, 1, (), OLD)["end_id"] == -1


def test_penalties_count_the_output_only() -> None:
    assert asked(SamplingParams(presence_penalty=0.5), NEW)["prompt_ignore_length"] == 20
    assert "prompt_ignore_length" not in asked(SamplingParams(), NEW)


def test_biases_and_bad_words_of_one_token_are_one_row() -> None:
    found = arguments.embedding_bias(SamplingParams(logit_bias={3: 2.0, 4: 5.0}, bad_words_ids=((4,),)))
    assert found == {3: 2.0, 4: float("-inf")}


def test_guides_are_those_of_the_other_engine() -> None:
    choice = arguments.guide_arguments(Guide("choice", '["yes", "no"]'), {})
    assert list(choice) == ["grammar"] and '"yes" | "no"' in choice["grammar"]
    tag = {"type": "structural_tag", "format": {"type": "const_string", "value": "a<|im_end|>"}}
    assert "<[2]>" in arguments.guide_arguments(Guide("structural_tag", json.dumps(tag)), {"<|im_end|>": 2})["grammar"]
    schema = json.loads(arguments.guide_arguments(Guide("json_schema", '{"type": "integer"}'), {})["json"])
    assert schema["type"] == "integer" and "whitespace_pattern" in schema["x-guidance"]
    for wrong in (Guide("regex", "a("), Guide("json_schema", '{"type": "objet"}'), Guide("ebnf_grammar", "{}")):
        with pytest.raises(InvalidInput):
            arguments.guide_arguments(wrong, {})


def span(start: int, number: int, size: int = 3) -> ImageSpan:
    return ImageSpan(start, np.full((size, 2), number, np.float32), (1, 2, 2), bytes([number]))


def test_an_image_is_one_placeholder_and_its_features() -> None:
    request = GenerationRequest(0, (5, 90, 90, 90, 6, 90, 90, 90, 7), SamplingParams(), (span(1, 1), span(5, 2)))
    inputs = arguments.prompt_inputs(request, NEW)
    assert inputs["prompt_token_ids"] == [5, 90, 6, 90, 7]
    assert [array[0, 0] for array in inputs["multi_modal_embeddings"]["image"]] == [1, 2]
    with pytest.raises(Unsupported, match=r"1\.2\.1 does not do image"):
        arguments.prompt_inputs(request, OLD)
    video = dataclasses.replace(request.images[0], grid=(4, 2, 2))
    with pytest.raises(Unsupported, match="images only"):
        arguments.prompt_inputs(dataclasses.replace(request, images=(video,)), NEW)


def test_prefixes_are_shared_only_with_the_same_salt_and_images() -> None:
    salts = [
        arguments.cache_salt(salt, images)
        for salt, images in [("", ()), ("a", ()), ("", (span(1, 1),)), ("", (span(1, 2),)), ("a", (span(1, 1),))]
    ]
    assert salts[:2] == [None, "a"] and len(set(salts)) == 5
    assert arguments.cache_salt("", (span(1, 1),)) == salts[2]


def test_options_that_the_library_cannot_follow() -> None:
    with pytest.raises(ValueError, match=r"'quantization' is 'int8'.*quantized already \(FP8, NVFP4 or AWQ"):
        arguments.llm_arguments(EngineOptions("x", quantization="int8"), 1)
    assert "max_gpu_total_bytes" not in arguments.kv_cache_arguments(EngineOptions("x"))
    assert arguments.kv_cache_arguments(EngineOptions("x", enable_prefix_caching=False))["enable_block_reuse"] is False


def test_a_version_that_is_too_old_is_named() -> None:
    with pytest.raises(ValueError, match=r"needs TensorRT-LLM 1\.2\.1 or newer, found 1\.1\.0"):
        checked_version("1.1.0")
    assert checked_version("1.3.0rc5") < NEW


@pytest.mark.skipif(bool(find_spec("tensorrt_llm")), reason="the package tensorrt_llm is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(ImportError, match=r"needs the package tensorrt-llm 1\.2\.1 or newer.*tensorrt_llm"):
        load_library()
