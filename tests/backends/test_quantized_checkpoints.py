"""Checkpoints that are quantized already, against plain ones with the same weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from python_backends.compiled.vectors import HAS_PRODUCTS
from python_backends.engine import EngineOptions
from python_backends.errors import OptionError
from python_backends.torch_engine.engine import TorchEngine
from python_backends.torch_engine.kernels import CompactBf16, Int4Levels, Int4WeightOnly, PackedBf16
from python_backends.torch_engine.linear import Int4Linear, PackedLinear
from python_backends.torch_engine.loading import load_model
from python_backends.torch_engine.model import DecoderModel
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent
from tests.backends.quantized import AWQ, CONFIG, FORMATS, Checkpoint, qwen2, qwen3_moe

PROMPT = tuple(range(2, 20))
NUM_TOKENS = 16


def greedy(options: EngineOptions) -> list[int | None]:
    events: list[TokenEvent] = []
    over = threading.Event()

    def emit(event: TokenEvent) -> None:
        events.append(event)
        if event.finish_reason is not None or event.error is not None:
            over.set()

    engine = TorchEngine(options)
    try:
        engine.submit(GenerationRequest(0, PROMPT, SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS), ()), emit)
        assert over.wait(60)
    finally:
        engine.close()
    return [event.token_id for event in events if event.token_id is not None]


def check_equal(checkpoint: Checkpoint) -> None:
    """Every weight, and what is generated with them."""
    expected = checkpoint.model
    found = load_model(checkpoint.options(), "sdpa").state_dict()
    assert {name for name, weight in expected.state_dict().items() if not torch.equal(weight, found[name])} == set()
    output = expected.generate(torch.tensor([PROMPT]), max_new_tokens=NUM_TOKENS, do_sample=False)
    assert greedy(checkpoint.options()) == output[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("kind", FORMATS)
def test_text_is_that_of_the_plain_weights(kind: str, tmp_path: Path) -> None:
    # No multiple of a block: the last one is cut off.
    inner = 192 if kind.startswith("fp8") else 256
    check_equal(Checkpoint(tmp_path, kind, qwen2(intermediate_size=inner)))


@pytest.mark.parametrize("kind", ["awq of one group", "gptq", "fp8", "compressed int4"])
def test_experts_are_stacked_from_plain_weights(kind: str, tmp_path: Path) -> None:
    check_equal(Checkpoint(tmp_path, kind, qwen3_moe()))


@pytest.mark.parametrize("kind", ["awq", "gptq", "fp8", "compressed fp8"])
def test_what_the_checkpoint_left_plain_stays_plain(kind: str, tmp_path: Path) -> None:
    check_equal(Checkpoint(tmp_path, kind, qwen2(tie_word_embeddings=True), r".*layers\.0\.mlp\..*weight"))


@pytest.mark.parametrize("kind", ["gptq with 8 bits", "fp8"])
def test_the_last_group_of_inputs_may_be_shorter(kind: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, kind, qwen2(intermediate_size=160))
    checkpoint.drop(r".*g_idx")
    check_equal(checkpoint)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_head_may_be_quantized(dtype: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "gptq", qwen2(), r"lm_head\.weight")
    head = load_model(checkpoint.options(dtype=dtype), "sdpa").get_output_embeddings()
    assert torch.equal(head.weight, checkpoint.model.lm_head.weight.to(head.weight.dtype))


# int4 stays int4


def kernels_of(model: DecoderModel) -> list[type]:
    """Of the layers that no other is joined with: two in each decoder layer, and the head."""
    return [type(layer.kernel) for layer in model._model.modules() if isinstance(layer, PackedLinear)]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["awq", "awq of one group", "gptq", "gptq_v2"])
def test_int4_goes_to_the_kernel_as_it_is(kind: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, kind, qwen2())
    expected = checkpoint.model(torch.tensor([PROMPT])).logits[0]
    bf16 = DecoderModel(EngineOptions(str(checkpoint.plain), dtype="bfloat16")).own_logits(list(PROMPT), None)
    model = DecoderModel(checkpoint.options(dtype="bfloat16"))
    found = model.own_logits(list(PROMPT), None)
    # No more is lost than by bf16 itself; another rounding to int4 would lose 8 % in every layer.
    assert (found - expected).norm() < 1.3 * (bf16 - expected).norm()
    assert kernels_of(model) == [Int4Levels] * 4 + [CompactBf16 if HAS_PRODUCTS else PackedBf16]
    assert model.fused and greedy(checkpoint.options(dtype="bfloat16"))


def test_int4_is_not_rounded_to_int4_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "awq", qwen2())
    model = DecoderModel(checkpoint.options(dtype="bfloat16", quantization="int4_weight_only"))
    assert kernels_of(model) == [Int4Levels] * 4 + [Int4WeightOnly]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gptq ordered", {}),
        ("gptq in sixteens", {}),
        ("gptq with 8 bits", {}),
        ("gptq", {"dtype": "float16"}),
        ("gptq", {"quantization": "int8"}),
    ],
)
def test_what_the_int4_kernel_does_not_take_becomes_plain(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, kind, qwen2())
    model = load_model(checkpoint.options(**{"dtype": "bfloat16", **options}), "sdpa")
    assert not any(isinstance(module, Int4Linear) for module in model.modules())
    found, dtype = model.state_dict(), model.dtype
    for name, weight in checkpoint.model.state_dict().items():
        assert torch.equal(found[name], weight.to(dtype)), name


# Refusals


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        (
            "awq",
            {"group_size": 64},
            r"down_proj.scales has the shape \[2, 128\]; group_size 64 and 4 bits need \[4, 128\]",
        ),
        ("awq", {"version": "gemv"}, "'awq': version 'gemv' with 4 bits; the torch engine serves 'gemm' with 4"),
        (
            "gptq",
            {"group_size": 128},
            r"down_proj.scales has the shape \[8, 128\]; group_size 128 and 4 bits need \[2, 128\]",
        ),
        ("gptq", {"bits": 8}, r"down_proj.scales has the shape \[8, 128\]; group_size 32 and 8 bits need \[4, 128\]"),
        ("gptq", {"bits": 3}, "'gptq': checkpoint_format 'gptq' with 3 bits; the torch engine serves"),
        ("gptq", {"checkpoint_format": "marlin"}, "'gptq': checkpoint_format 'marlin' with 4 bits"),
        ("fp8", {"weight_block_size": [64, 64]}, r"weight_scale_inv has the shape .*weight_block_size \[64, 64\] need"),
        ("compressed int4", {"format": "nvfp4-pack-quantized"}, "of the format nvfp4-pack-quantized, pack-quantized"),
        ("compressed int4", {"config_groups": {"a": {}, "b": {}}}, "2 config_groups"),
        ("compressed int4", {"transform_config": {"a": 1}}, "has a transform_config"),
        ("compressed int4", {"sparsity_config": {"a": 1}}, "has a sparsity_config"),
        (
            "gptq",
            {"quant_method": "hqq"},
            "quantized with 'hqq'; the torch engine serves awq, gptq, fp8 and compressed",
        ),
        ("gptq", {"quant_method": None}, "quantized with 'None'; the torch engine serves"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    kind: str, config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, kind, qwen2())
    checkpoint.change_config(quantization_config={**FORMATS[kind][0], **config})
    with pytest.raises(OptionError, match=reason):
        load_model(checkpoint.options(), "sdpa")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("awq", "k_proj.qzeros"),
        ("gptq", "k_proj.scales"),
        ("gptq ordered", "k_proj.g_idx"),
        ("fp8", "k_proj.weight_scale_inv"),
        ("compressed fp8", "k_proj.weight_scale"),
        ("compressed int4", "k_proj.weight_shape"),
    ],
)
def test_a_missing_tensor_is_named(kind: str, missing: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, kind, qwen2())
    name = re.escape(f"model.layers.0.self_attn.{missing}")
    checkpoint.drop(name)
    with pytest.raises(OptionError, match=f"it lacks {name}"):
        load_model(checkpoint.options(), "sdpa")


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "awq", qwen2())
    checkpoint.drop(r"model\.layers\.0\.self_attn\.k_proj\.(qweight|qzeros|scales)")
    with pytest.raises(OptionError, match=r"lacks 1 of its weights: model.layers.0.self_attn.k_proj.weight"):
        load_model(checkpoint.options(), "sdpa")


def test_another_order_of_inputs_in_compressed_tensors_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "compressed int4", qwen2())
    path = checkpoint.quantized / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.mlp.up_proj.weight_g_idx": torch.zeros(128)}, path, {"format": "pt"})
    with pytest.raises(OptionError, match="weight_g_idx: another order of inputs is not served"):
        load_model(checkpoint.options(), "sdpa")


# Memory

_PEAK = """
import resource, sys
from python_backends.engine import EngineOptions
from python_backends.torch_engine.linear import pack_linears
from python_backends.torch_engine.loading import load_model
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
pack_linears(load_model(EngineOptions(sys.argv[1], dtype="bfloat16"), "sdpa"), "none")
print(peak() - before)
"""


@pytest.mark.slow
def test_loading_int4_never_holds_the_plain_weights(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 6, "vocab_size": 64}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        outputs, inputs = tensors.pop(name).shape
        stem = name.removesuffix("weight")
        tensors[f"{stem}qweight"] = torch.randint(-(2**31), 2**31, (inputs, outputs // 8), dtype=torch.int32)
        tensors[f"{stem}qzeros"] = torch.zeros(inputs // 128, outputs // 8, dtype=torch.int32)
        tensors[f"{stem}scales"] = torch.ones(inputs // 128, outputs, dtype=torch.float16)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**plain, "quantization_config": {**AWQ, "group_size": 128}}))
    ran = subprocess.run([sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    size = sum(weight.numel() for weight in model.parameters()) * 2
    peak = int(ran.stdout.splitlines()[-1])
    assert size > 700e6
    assert peak < 1.2 * size, f"{peak / size:.2f} times the size of the model in bfloat16"
