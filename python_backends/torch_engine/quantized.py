"""Checkpoints whose weights are quantized already: which are served, and how the library makes plain weights of them.

The library hands each layer's tensors, as they are stored, to an operation while it loads; the operation gives back the
weight. Its own operations serve FP8 and compressed-tensors, `packed_integers.py` has those for AWQ and GPTQ. The
checks here read names, types and shapes only, before any weight: what the library would ignore, or read as something
else, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, prod
from typing import Any

import torch
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer

from python_backends.errors import OptionError
from python_backends.torch_engine.packed_integers import PACKED_INTEGERS

# Name of each tensor: {"dtype": ..., "shape": [...]}, as in the header of a safetensors file.
Tensors = dict[str, dict[str, Any]]

_SERVED = "awq, gptq, fp8 and compressed-tensors"
_FP8_BLOCKS = "fp8_blocks"
_FP8_SCALES = ("weight_scale_inv", "scale", "qscale_weight")
_COMPRESSED_FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")


def quantization_of(config: Any) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint's configuration, of all of it or of its text part; {} if plain."""
    parts = (config, config.get_text_config())
    return next((found for part in parts if (found := getattr(part, "quantization_config", None))), {})


def check_quantization(config: Any, tensors: Tensors) -> None:
    """Raises OptionError if the checkpoint is quantized in a way, or with tensors, that cannot become plain weights."""
    plain = quantization_of(config)
    if not plain:
        return
    method = str(plain.get("quant_method"))
    if method not in _METHODS:
        raise OptionError(f"the checkpoint is quantized with {method!r}; the torch engine serves {_SERVED}")
    if problem := next(_METHODS[method](plain, tensors), None):
        raise OptionError(f"the checkpoint is quantized with {method!r}: {problem}")


def make_weights_plain(config: Any, keeps_int4: bool) -> None:
    """Have the library make plain weights while it loads, whatever `config` says of quantization.

    With `keeps_int4`, bfloat16 layers that are int4 become `Int4Linear` where the kernel has a place for their groups.
    """
    plain = quantization_of(config)
    method = plain.get("quant_method")
    if method == "fp8":
        config.quantization_config = {**plain, "quant_method": _FP8_BLOCKS, "dequantize": True}
    elif method == "compressed-tensors":
        config.quantization_config = {**plain, "dequantize": True}
    elif method in ("awq", "gptq"):
        config.quantization_config = {
            "quant_method": PACKED_INTEGERS,
            "packing": "awq" if method == "awq" else _gptq_format(plain),
            "bits": plain["bits"],
            "group_size": _group_size(plain),
            "keeps_int4": keeps_int4,
        }


# FP8


@register_quantizer(_FP8_BLOCKS)
class Fp8Blocks(FineGrainedFP8HfQuantizer):
    """The library's, without its wish for another package: plain weights need none."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        assert self.quantization_config.dequantize

    def get_load_operations(self) -> dict[str, Any]:
        return {"dequantize": _Fp8Dequantize}


register_quantization_config(_FP8_BLOCKS)(FineGrainedFP8Config)


class _Fp8Dequantize(Fp8Dequantize):
    """The library takes the blocks' size from the grid of scales, which is wrong where the last block is cut off."""

    def _dequantize_one(
        self, quantized: torch.Tensor, scales: torch.Tensor, output_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        block = self.hf_quantizer.quantization_config.weight_block_size
        rows, columns = quantized.shape[-2:]
        if (
            block
            and (rows % block[0] or columns % block[1])
            and list(scales.shape[-2:]) == _grid((rows, columns), block)
        ):
            scales = scales.float().repeat_interleave(block[0], -2)[..., :rows, :]
            scales = scales.repeat_interleave(block[1], -1)[..., :columns]
        return super()._dequantize_one(quantized, scales, output_dtype)


def _grid(shape: Any, block: Any) -> list[int]:
    return [ceil(size / side) for size, side in zip(shape[-2:], block, strict=True)]


# What speaks against a checkpoint, by method


def _problems_of_fp8(plain: dict[str, Any], tensors: Tensors) -> Iterator[str]:
    block = plain.get("weight_block_size")
    for name, stored in tensors.items():
        if stored["dtype"] != "F8_E4M3" or not name.endswith(".weight"):
            continue
        stem = name.removesuffix("weight")
        found = next((stem + scale for scale in _FP8_SCALES if stem + scale in tensors), None)
        if found is None:
            yield f"it lacks {stem}{_FP8_SCALES[0]}"
        elif block and prod(tensors[found]["shape"]) > 1:
            yield from _other_shape(found, tensors, _grid(stored["shape"], block), f"weight_block_size {list(block)}")


def _problems_of_awq(plain: dict[str, Any], tensors: Tensors) -> Iterator[str]:
    version = str(plain.get("version") or plain.get("format") or "gemm").lower()
    if version != "gemm" or plain.get("bits") != 4:
        yield f"version {version!r} with {plain.get('bits')} bits; the torch engine serves 'gemm' with 4"
        return
    yield from _problems_of_packed(plain, tensors, along_inputs=False, needed=("qzeros", "scales"))


def _problems_of_gptq(plain: dict[str, Any], tensors: Tensors) -> Iterator[str]:
    if _gptq_format(plain) not in ("gptq", "gptq_v2") or plain.get("bits") not in (4, 8):
        yield (
            f"checkpoint_format {_gptq_format(plain)!r} with {plain.get('bits')} bits; "
            "the torch engine serves 'gptq' and 'gptq_v2' with 4 or 8"
        )
        return
    needed = ("qzeros", "scales", "g_idx") if plain.get("desc_act") else ("qzeros", "scales")
    yield from _problems_of_packed(plain, tensors, along_inputs=True, needed=needed)


def _gptq_format(plain: dict[str, Any]) -> str:
    return str(plain.get("checkpoint_format") or plain.get("format") or "gptq").lower()


def _group_size(plain: dict[str, Any]) -> int:
    return int(plain.get("group_size", 128))


def _problems_of_packed(
    plain: dict[str, Any], tensors: Tensors, along_inputs: bool, needed: tuple[str, ...]
) -> Iterator[str]:
    """`along_inputs`: the integers of one int32 belong to neighbouring inputs; else to outputs."""
    group, bits = _group_size(plain), plain["bits"]
    stems = [name.removesuffix("qweight") for name in tensors if name.endswith(".qweight")]
    if not stems:
        yield "it has no tensor named qweight"
    for stem in stems:
        yield from (f"it lacks {stem}{name}" for name in needed if stem + name not in tensors)
        rows, columns = tensors[f"{stem}qweight"]["shape"]
        inputs, outputs = (rows * 32 // bits, columns) if along_inputs else (rows, columns * 32 // bits)
        groups = 1 if group == -1 else ceil(inputs / group)
        reason = f"group_size {group} and {bits} bits"
        yield from _other_shape(f"{stem}scales", tensors, [groups, outputs], reason)
        yield from _other_shape(f"{stem}qzeros", tensors, [groups, outputs * bits // 32], reason)


def _problems_of_compressed(plain: dict[str, Any], tensors: Tensors) -> Iterator[str]:
    """The library takes one scheme for all layers, and looks for neither rotations nor an order of inputs."""
    schemes = list((plain.get("config_groups") or {}).values())
    formats = {plain.get("format"), *(scheme.get("format") or plain.get("format") for scheme in schemes)}
    if len(schemes) != 1 or not formats <= set(_COMPRESSED_FORMATS):
        told = ", ".join(sorted(map(str, formats)))
        served = ", ".join(_COMPRESSED_FORMATS)
        yield f"{len(schemes)} config_groups of the format {told}; the torch engine serves one group of {served}"
        return
    for key in ("transform_config", "sparsity_config"):
        if plain.get(key):
            yield f"it has a {key}, which the torch engine does not apply"
    yield from (f"it has {name}: another order of inputs is not served" for name in tensors if name.endswith("g_idx"))
    weights = schemes[0]["weights"]
    for name, stored in tensors.items():
        packed = name.endswith(".weight_packed")
        if packed or (name.endswith(".weight") and stored["dtype"] in ("F8_E4M3", "I8")):
            yield from _problems_of_compressed_layer(name.removesuffix("_packed"), packed, weights, tensors)


def _problems_of_compressed_layer(stem: str, packed: bool, weights: dict[str, Any], tensors: Tensors) -> Iterator[str]:
    needed = ["_scale"] + ["_shape"] * packed + ["_zero_point"] * (not weights.get("symmetric", True))
    yield from (f"it lacks {stem}{end}" for end in needed if stem + end not in tensors)
    if weights.get("strategy") == "group":
        group = weights["group_size"]
        rows, columns = tensors[stem + "_packed" * packed]["shape"]
        inputs = columns * (32 // weights["num_bits"] if packed else 1)
        yield from _other_shape(f"{stem}_scale", tensors, [rows, ceil(inputs / group)], f"group_size {group}")


def _other_shape(name: str, tensors: Tensors, shape: list[int], reason: str) -> Iterator[str]:
    found = tensors[name]["shape"]
    if found != shape:
        yield f"{name} has the shape {found}; {reason} need {shape}"


_METHODS: dict[str, Callable[[dict[str, Any], Tensors], Iterator[str]]] = {
    "awq": _problems_of_awq,
    "gptq": _problems_of_gptq,
    "fp8": _problems_of_fp8,
    "compressed-tensors": _problems_of_compressed,
}
