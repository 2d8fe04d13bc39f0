"""LoRA adapters in peft's form: what TensorRT-LLM must know of all of them before it loads the checkpoint.

Reads adapter_config.json and no weights. What the library would leave out of an adapter is refused here by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# TensorRT-LLM's names of the linear layers, by Hugging Face's: those of its own defaults that every version has.
_MODULES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_dense",
    "gate_proj": "mlp_h_to_4h",
    "up_proj": "mlp_gate",
    "down_proj": "mlp_4h_to_h",
}
_TOGETHER = frozenset({"attn_q", "attn_k", "attn_v"})
# Keys that change what an adapter means, and of which the library reads nothing when it takes adapters by request.
_UNREAD = (
    "modules_to_save",
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_dora",
    "use_qalora",
)


@dataclass(frozen=True)
class _Shape:
    """The linear layers, by TensorRT-LLM's names, that an adapter changes, and its largest rank."""

    modules: frozenset[str]
    rank: int


def lora_arguments(adapters: Mapping[str, str]) -> dict[str, Any]:
    """Of `LoraConfig(...)` for the folders of adapters by name. Raises ValueError naming the adapter at fault.

    All adapters stay on the GPU. `lora_dir` stays empty: the library takes one folder there, and the others by request.
    """
    shapes = [_shape(name, Path(folder)) for name, folder in adapters.items()]
    modules = frozenset().union(*(shape.modules for shape in shapes))
    # The library wants these three together; an adapter may have fewer.
    modules |= _TOGETHER if modules & _TOGETHER else frozenset()
    return {
        "lora_target_modules": sorted(modules),
        "max_lora_rank": max(shape.rank for shape in shapes),
        "max_loras": len(shapes),
        "max_cpu_loras": len(shapes),
    }


def _shape(name: str, folder: Path) -> _Shape:
    config = _config(name, folder)
    kind, bias, targets = config.get("peft_type"), config.get("bias", "none"), config.get("target_modules")
    if kind != "LORA" or bias != "none":
        raise _wrong(name, f"TensorRT-LLM takes peft_type LORA with bias none, this has {kind} with {bias}")
    if unread := next((key for key in _UNREAD if config.get(key)), None):
        raise _wrong(name, f"TensorRT-LLM would leave out its {unread}")
    if not isinstance(targets, list) or not targets:
        raise _wrong(name, f"target_modules must be a list of names, got {targets!r}")
    # Some are named by their whole path.
    last = {str(target).rpartition(".")[2] for target in targets}
    if unknown := sorted(last - _MODULES.keys()):
        raise _wrong(name, f"TensorRT-LLM knows no LoRA of {', '.join(unknown)}; known are {', '.join(_MODULES)}")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise _wrong(name, f"r and rank_pattern must be numbers above 0, got {ranks}")
    return _Shape(frozenset(_MODULES[target] for target in last), max(ranks))


def _config(name: str, folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _wrong(name, f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise _wrong(name, f"{path} is not a JSON object")
    return config


def _wrong(name: str, text: str) -> ValueError:
    return ValueError(f"parameter 'lora_adapters', {name!r}: {text}")
