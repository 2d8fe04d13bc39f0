"""The tensors of AWQ and GPTQ, as AutoAWQ, AutoGPTQ and GPTQModel write them, and the weights that they stand for.

weight[o, i] = (level[o, i] - zero[g, o]) * scale[g, o], with g the group of input i: i // group_size, or g_idx[i] where
inputs were ordered by activation (desc_act). Levels and zeros are unsigned integers in int32s, the lowest bits first:

* GPTQ (arXiv 2210.17323): qweight [in * bits / 32, out] packs neighbouring inputs, qzeros [groups, out * bits / 32]
  neighbouring outputs. The format `gptq` stores every zero less one, `gptq_v2` as it is.
* AWQ (arXiv 2306.00978), version `gemm`: qweight [in, out / 8] and qzeros [groups, out / 8] pack eight neighbouring
  outputs, of which the even ones come first: 0, 2, 4, 6, 1, 3, 5, 7.

scales are float16 [groups, out].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from python_backends.torch_engine.kernels import INT4_GROUPS
from python_backends.torch_engine.linear import Int4Linear

PACKED_INTEGERS = "packed_integers"
# Where in its int32 each of eight neighbouring outputs of AWQ lies.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class GroupedIntegers:
    """levels uint8 [out, in], zeros uint8 [groups, out], scales [groups, out], group_of int64 [in]."""

    levels: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    group_of: torch.Tensor

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """[out, in], computed in float32 and rounded once."""
        weight = self.levels.float()
        weight -= self.zeros.T[:, self.group_of]
        weight *= self.scales.T[:, self.group_of]
        return weight.to(dtype)

    @property
    def fits_int4_kernel(self) -> bool:
        """Whether groups are neighbours, and the kernel can cut the layer."""
        outputs, inputs = self.levels.shape
        group = inputs // len(self.scales)
        in_order = torch.equal(self.group_of, torch.arange(inputs) // max(group, 1))
        return in_order and group in INT4_GROUPS and inputs % group == 0 and outputs % 16 == 0

    def int4_scales(self, dtype: torch.dtype) -> torch.Tensor:
        """[groups, out, 2] of scale and middle, as `kernels.int4_weight` has them."""
        scales = self.scales.float()
        return torch.stack([scales, (8 - self.zeros.float()) * scales], dim=-1).to(dtype)


def read_awq(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, group_size: int) -> GroupedIntegers:
    def in_order(packed: torch.Tensor) -> torch.Tensor:
        return unpack(packed, 4).view(len(packed), -1, 8)[..., _AWQ_PLACES].flatten(-2)

    levels = in_order(qweight).T.contiguous()
    return GroupedIntegers(levels, in_order(qzeros), scales, _neighbours(levels.shape[1], group_size))


def read_gptq(
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    group_size: int,
    g_idx: torch.Tensor | None,
    bits: int,
    zeros_less_one: bool,
) -> GroupedIntegers:
    levels, zeros = unpack(qweight.T, bits), unpack(qzeros, bits)
    if zeros_less_one:
        # The zero of a group without negative weights is 0, stored as the greatest level.
        zeros = (zeros + 1) & (2**bits - 1)
    group_of = _neighbours(levels.shape[1], group_size) if g_idx is None else g_idx.long()
    return GroupedIntegers(levels, zeros, scales, group_of)


def _neighbours(inputs: int, group_size: int) -> torch.Tensor:
    return torch.arange(inputs) // (inputs if group_size == -1 else group_size)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [..., n] -> uint8 [..., n * 32 / bits], the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    fields: torch.Tensor = (packed[..., None] >> shifts) & (2**bits - 1)
    return fields.to(torch.uint8).flatten(-2)


# How the library's loader comes to know of it


@register_quantization_config(PACKED_INTEGERS)
class PackedIntegersConfig(QuantizationConfigMixin):
    """`packing` is awq, gptq or gptq_v2; a `group_size` of -1 is one group for all inputs."""

    def __init__(self, quant_method: str, packing: str, bits: int, group_size: int, keeps_int4: bool) -> None:
        self.quant_method: Any = quant_method
        self.packing, self.bits, self.group_size, self.keeps_int4 = packing, bits, group_size, keeps_int4
        self.dequantize = True


@register_quantizer(PACKED_INTEGERS)
class PackedIntegersQuantizer(HfQuantizer):
    quantization_config: PackedIntegersConfig
    serialized_names = {"weight": ["weight", "qweight", "qzeros", "scales", "g_idx"]}  # noqa: RUF012  # as the library has it

    def get_load_operations(self) -> dict[str, Any]:
        return {"dequantize": _MakeWeights}

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _MakeWeights(ConversionOps):
    """From a layer's stored tensors to its weight; for experts, lists of both, which the library then stacks."""

    def __init__(self, hf_quantizer: PackedIntegersQuantizer) -> None:
        # The library casts nothing for an operation that has this attribute.
        self.hf_quantizer = hf_quantizer

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        name, model = kwargs["full_layer_name"], kwargs["model"]
        dtype = model.get_parameter_or_buffer(name).dtype
        stems = {key.rpartition(".")[0]: None for key in input_dict}
        if list(stems) != [""]:
            return {f"{stem}.weight": self._weights(stem + ".", input_dict, dtype) for stem in stems}
        if "weight" in input_dict:
            return {name: input_dict["weight"][0].to(dtype)}
        found = self._read({part: tensors[0] for part, tensors in input_dict.items()})
        if self._stays_int4(found, model, name):
            _replace(model, name.rpartition(".")[0], found)
            kwargs["missing_keys"].discard(name)
            return {}
        return {name: found.weight(dtype)}

    def _weights(self, stem: str, stored: dict[str, list[torch.Tensor]], dtype: torch.dtype) -> list[torch.Tensor]:
        own = {key.removeprefix(stem): tensors for key, tensors in stored.items() if key.startswith(stem)}
        if "weight" in own:
            return [weight.to(dtype) for weight in own["weight"]]
        layers = (dict(zip(own, tensors, strict=True)) for tensors in zip(*own.values(), strict=True))
        return [self._read(layer).weight(dtype) for layer in layers]

    def _read(self, layer: dict[str, torch.Tensor]) -> GroupedIntegers:
        told = self.hf_quantizer.quantization_config
        named = layer["qweight"], layer["qzeros"], layer["scales"], told.group_size
        if told.packing == "awq":
            return read_awq(*named)
        return read_gptq(*named, layer.get("g_idx"), told.bits, told.packing == "gptq")

    def _stays_int4(self, found: GroupedIntegers, model: Any, name: str) -> bool:
        told = self.hf_quantizer.quantization_config
        layer = model.get_submodule(name.rpartition(".")[0])
        return (
            told.keeps_int4
            and told.bits == 4
            and type(layer) is nn.Linear
            and layer is not model.get_output_embeddings()
            # The ATen kernel is quick in this type only.
            and layer.weight.dtype == torch.bfloat16
            and layer.weight.shape == found.levels.shape
            and found.fits_int4_kernel
        )


def _replace(model: nn.Module, name: str, found: GroupedIntegers) -> None:
    layer: Any = model.get_submodule(name)
    scales = found.int4_scales(layer.weight.dtype)
    model.set_submodule(name, Int4Linear(found.levels, scales, layer.bias))
