"""Small checkpoints in the formats of quantized weights, packed by plain loops or by the format's own library.

Each comes with the weights that it stands for, as a plain checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import load_file, save_file

from python_backends.engine import EngineOptions

Tensors = dict[str, torch.Tensor]
# From a weight to what is stored for it, and the weight that this stands for.
Format = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]

CONFIG: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


# Integers in groups: AWQ and GPTQ


def rounded(weight: torch.Tensor, group_of: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """levels int64 [out, in], zeros int64 [groups, out], scales float16 [groups, out]."""
    num_groups = int(group_of.max()) + 1
    levels = torch.zeros(weight.shape, dtype=torch.int64)
    zeros = torch.zeros(num_groups, len(weight), dtype=torch.int64)
    scales = torch.zeros(num_groups, len(weight), dtype=torch.float16)
    for group in range(num_groups):
        inputs = (group_of == group).nonzero()[:, 0]
        part = weight[:, inputs]
        least, greatest = part.amin(1).clamp_max(0), part.amax(1).clamp_min(0)
        scales[group] = ((greatest - least) / (2**bits - 1)).half()
        zeros[group] = (-least / scales[group]).round().clamp(0, 2**bits - 1).long()
        levels[:, inputs] = (part / scales[group][:, None] + zeros[group][:, None]).round().clamp(0, 2**bits - 1).long()
    return levels, zeros, scales


def restored(levels: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, group_of: torch.Tensor) -> torch.Tensor:
    weight = torch.zeros(levels.shape)
    for place, group in enumerate(group_of.tolist()):
        weight[:, place] = (levels[:, place] - zeros[group]) * scales[group].float()
    return weight


def packed(values: torch.Tensor, bits: int, places: tuple[int, ...]) -> torch.Tensor:
    """[rows, columns] -> int32 [rows, columns * bits / 32]; `places` says which neighbour comes first, second, ..."""
    words = np.zeros((len(values), values.shape[1] // len(places)), dtype=np.uint32)
    for word in range(words.shape[1]):
        for place, neighbour in enumerate(places):
            words[:, word] |= values[:, word * len(places) + neighbour].numpy().astype(np.uint32) << (bits * place)
    return torch.from_numpy(words.view(np.int32).copy())


def awq(group: int) -> Format:
    def store(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        group_of = torch.arange(weight.shape[1]) // group
        levels, zeros, scales = rounded(weight, group_of, 4)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        stored = {"qweight": packed(levels.T, 4, order), "qzeros": packed(zeros, 4, order), "scales": scales}
        return stored, restored(levels, zeros, scales, group_of)

    return store


def gptq(group: int, bits: int = 4, less: int = 1, ordered: bool = False) -> Format:
    """`less` is what the format takes from every zero; `ordered` groups inputs that are no neighbours."""

    def store(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        group_of = torch.arange(weight.shape[1]) // group
        if ordered:
            group_of = group_of[torch.randperm(len(group_of), generator=torch.Generator().manual_seed(len(weight)))]
        levels, zeros, scales = rounded(weight, group_of, bits)
        order = tuple(range(32 // bits))
        stored = {
            "qweight": packed(levels, bits, order).T.contiguous(),
            "qzeros": packed((zeros - less) % 2**bits, bits, order),
            "scales": scales,
            "g_idx": group_of.int(),
        }
        return stored, restored(levels, zeros, scales, group_of)

    return store


# FP8


def fp8(block: tuple[int, int] | None) -> Format:
    """One scale for each block, or for all."""

    def store(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        height, width = block or weight.shape
        rows, columns = -(-weight.shape[0] // height), -(-weight.shape[1] // width)
        stored, scales = torch.zeros_like(weight).to(torch.float8_e4m3fn), torch.zeros(rows, columns)
        plain = torch.zeros_like(weight)
        for row in range(rows):
            for column in range(columns):
                here = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
                scales[row, column] = weight[here].abs().max() / 448
                stored[here] = (weight[here] / scales[row, column]).to(torch.float8_e4m3fn)
                plain[here] = stored[here].float() * scales[row, column]
        return {"weight": stored, "weight_scale_inv": scales if block else scales[0, 0].clone()}, plain

    return store


# compressed-tensors, by its own library


def compressed(config: dict[str, Any]) -> Format:
    scheme = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    assert scheme.weights is not None
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    weights, group = scheme.weights, scheme.weights.group_size
    greatest = 448 if weights.type == "float" else 2 ** (weights.num_bits - 1) - 1

    def store(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts = weight.abs().unflatten(1, (-1, group or weight.shape[1]))
        scale = parts.amax()[None] if weights.strategy == "tensor" else parts.amax(-1)
        stored = compressor.compress({"weight": weight, "weight_scale": scale / greatest}, scheme)
        return stored, compressor.decompress(stored, scheme)["weight"]

    return store


def compressed_config(format: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, "format": format}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": format,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


AWQ = {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
GPTQ = {"quant_method": "gptq", "bits": 4, "sym": False, "desc_act": False, "checkpoint_format": "gptq"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
CT_FP8 = compressed_config("float-quantized", num_bits=8, type="float", strategy="channel")
CT_FP8_TENSOR = compressed_config("float-quantized", num_bits=8, type="float", strategy="tensor")
CT_INT8 = compressed_config("int-quantized", num_bits=8, type="int", strategy="channel")
CT_INT4 = compressed_config("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32)
FORMATS: dict[str, tuple[dict[str, Any], Format]] = {
    "awq": ({**AWQ, "group_size": 128}, awq(128)),
    "awq of one group": ({**AWQ, "group_size": 32}, awq(32)),
    "gptq": ({**GPTQ, "group_size": 32}, gptq(32)),
    "gptq_v2": ({**GPTQ, "group_size": 32, "checkpoint_format": "gptq_v2"}, gptq(32, less=0)),
    "gptq with 8 bits": ({**GPTQ, "group_size": 64, "bits": 8}, gptq(64, bits=8)),
    "gptq ordered": ({**GPTQ, "group_size": 32, "desc_act": True}, gptq(32, ordered=True)),
    "gptq in sixteens": ({**GPTQ, "group_size": 16}, gptq(16)),
    "gptq of one group": ({**GPTQ, "group_size": -1}, gptq(1 << 20)),
    "fp8": (FP8, fp8((128, 128))),
    "fp8 of one block": ({**FP8, "weight_block_size": None, "activation_scheme": "static"}, fp8(None)),
    "compressed fp8": (CT_FP8, compressed(CT_FP8)),
    "compressed fp8 of one block": (CT_FP8_TENSOR, compressed(CT_FP8_TENSOR)),
    "compressed int8": (CT_INT8, compressed(CT_INT8)),
    "compressed int4": (CT_INT4, compressed(CT_INT4)),
}


class Checkpoint:
    """Two folders: `quantized`, and `plain` with the weights that it stands for. `names` are those not left plain."""

    def __init__(self, folder: Path, kind: str, model: Any, names: str = r".*_proj\.weight") -> None:
        config, store = FORMATS[kind]
        self.plain, self.quantized = folder / "plain", folder / "quantized"
        for each in (self.plain, self.quantized):
            model.save_pretrained(each)
        plain = load_file(self.plain / "model.safetensors")
        stored = dict(plain)
        for name in [name for name in plain if re.fullmatch(names, name)]:
            weight = stored.pop(name)
            # Positive weights have the zero 0, the case that the format `gptq` cannot store less one.
            weight[0] = weight[0].abs()
            parts, plain[name] = store(weight)
            stored |= {name.removesuffix("weight") + part: tensor for part, tensor in parts.items()}
        save_file(plain, self.plain / "model.safetensors", {"format": "pt"})
        save_file(stored, self.quantized / "model.safetensors", {"format": "pt"})
        self.change_config(quantization_config=config)

    def change_config(self, **values: Any) -> None:
        path = self.quantized / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def drop(self, names: str) -> None:
        """Take tensors away."""
        path = self.quantized / "model.safetensors"
        tensors = load_file(path)
        kept = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(names, name)}
        save_file(kept, path, {"format": "pt"})

    @property
    def model(self) -> Any:
        return hf.AutoModelForCausalLM.from_pretrained(self.plain, dtype=torch.float32).eval()

    def options(self, **values: Any) -> EngineOptions:
        return EngineOptions(str(self.quantized), **{"dtype": "float32", "kv_cache_bytes": 1 << 22, **values})


def qwen2(**config: Any) -> Any:
    torch.manual_seed(0)
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**{**CONFIG, **config}))


def qwen3_moe() -> Any:
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**CONFIG, **experts))
