"""The commonest kind of decoder, computed with a third of the operators.

A layer of this kind is norm, attention with rotated queries and keys, norm, gated MLP, and two sums; Llama, Mistral,
Qwen and many others are made of it. The library computes it in some sixty operators and ten modules per layer, which at
a few rows cost as much time as a tenth of the weights. Here the same weights are used with about twenty.

Nothing is believed by name: `fuse` looks at the parts, and self_check.py at what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm

from python_backends.torch_engine.attention import Layer, StepContext, attend, attend_rows
from python_backends.torch_engine.linear import PackedLinear, Part
from python_backends.torch_engine.structure import LayerCall

_LAYER = frozenset({"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"})
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
_HEAD_NORMS = frozenset({"q_norm", "k_norm"})
_MLP = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})
_DECODER = frozenset({"embed_tokens", "layers", "norm", "rotary_emb"})


@dataclass(frozen=True)
class Norm:
    """x * weight / sqrt(mean(x^2) + eps) over the last dimension (arXiv 1910.07467)."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True)
class FusedLayer:
    attention: Layer
    num_kv_heads: int
    head_dim: int
    norm: Norm
    qkv: Callable[[torch.Tensor], torch.Tensor]
    output: Callable[[torch.Tensor], torch.Tensor]
    query_norm: Norm | None
    key_norm: Norm | None
    mlp_norm: Norm
    gate_up: Callable[[torch.Tensor], torch.Tensor]
    down: Callable[[torch.Tensor], torch.Tensor]
    activation: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, step: StepContext) -> torch.Tensor:
        """hidden [rows, hidden], cos and sin [rows, 1, head_dim], of sin the first half negated."""
        heads = self.qkv(self.norm(hidden)).view(len(hidden), -1, self.head_dim)
        rotated, value = heads[:, : -self.num_kv_heads], heads[:, -self.num_kv_heads :]
        if self.query_norm and self.key_norm:
            query, key = rotated[:, : -self.num_kv_heads], rotated[:, -self.num_kv_heads :]
            rotated = torch.cat([self.query_norm(query), self.key_norm(key)], dim=1)
        rotated = _rotate(rotated, cos, sin)
        query, key = rotated[:, : -self.num_kv_heads], rotated[:, -self.num_kv_heads :]
        attended = attend_rows(self.attention, query, key, value, step)
        hidden = self.output(attended.flatten(1)).add_(hidden)
        gate, up = self.gate_up(self.mlp_norm(hidden)).chunk(2, dim=-1)
        return self.down(self.activation(gate).mul_(up)).add_(hidden)


class FusedDecoder:
    """All layers, from embeddings to normed hidden states."""

    def __init__(self, layers: Sequence[FusedLayer], rotary: Callable[..., Any], norm: Norm) -> None:
        self._layers, self._rotary, self._norm = layers, rotary, norm

    def __call__(self, embeddings: torch.Tensor, position_ids: torch.Tensor, step: StepContext) -> torch.Tensor:
        """embeddings [rows, hidden], position_ids as the library's decoder takes them -> [rows, hidden]."""
        cos, sin = (part.reshape(len(embeddings), 1, -1) for part in self._rotary(embeddings[None], position_ids))
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        hidden = embeddings
        for layer in self._layers:
            hidden = layer(hidden, cos, sin, step)
        return self._norm(hidden)


def fuse(decoder: Any, calls: list[LayerCall]) -> FusedDecoder | None:
    """The same decoder, fused; None if it has other parts than the common ones, or its linear layers are not packed.

    `calls` are what the layers ask of attention.
    """
    if not _has(decoder, _DECODER) or not all(map(_is_common, decoder.layers)):
        return None
    norm = _norm(decoder.norm)
    layers = [_fuse_layer(layer, call) for layer, call in zip(decoder.layers, calls, strict=True)]
    if norm is None or None in layers:
        return None
    return FusedDecoder([layer for layer in layers if layer], decoder.rotary_emb, norm)


def _has(module: nn.Module, names: frozenset[str], optional: frozenset[str] = frozenset()) -> bool:
    """Whether a module has just these children, and no parameters of its own."""
    children = {name for name, _ in module.named_children()}
    return names <= children <= names | optional and not list(module.parameters(recurse=False))


def _is_common(layer: Any) -> bool:
    if not _has(layer, _LAYER) or not _has(layer.mlp, _MLP) or not _has(layer.self_attn, _ATTENTION, _HEAD_NORMS):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    joined = (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj)
    alone = (attention.o_proj, mlp.down_proj)
    return all(isinstance(part, Part) for part in joined) and all(isinstance(part, PackedLinear) for part in alone)


def _fuse_layer(layer: Any, call: LayerCall) -> FusedLayer | None:
    attention, mlp, shape = layer.self_attn, layer.mlp, call.shape
    norms = [_norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)]
    head_norms = [_norm(getattr(attention, name)) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    if None in (*norms, *head_norms) or len(head_norms) == 1 or shape.key_dim != shape.value_dim:
        return None
    if not call.scales_only:
        return None
    first, second = norms
    assert first is not None and second is not None
    return FusedLayer(
        attention=Layer(call.index, call.scaling, call.window, attend),
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.key_dim,
        norm=first,
        qkv=attention.q_proj.shared.kernel,
        output=attention.o_proj.kernel,
        query_norm=head_norms[0] if head_norms else None,
        key_norm=head_norms[1] if head_norms else None,
        mlp_norm=second,
        gate_up=mlp.gate_proj.shared.kernel,
        down=mlp.down_proj.kernel,
        activation=mlp.act_fn,
    )


@torch.inference_mode()
def _norm(module: Any) -> Norm | None:
    """The library's RMS norm as one operator; None if it is another kind, such as one that adds 1 to its weights."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if eps is None or [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    found = Norm(module.weight.detach(), float(eps))
    x = torch.randn(4, len(found.weight), generator=torch.Generator().manual_seed(0)).to(found.weight)
    difference = (found(x).float() - module(x).float()).norm() / found(x).float().norm()
    return found if difference < 0.01 else None


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [rows, heads, head_dim]: each pair (x_i, x_{i + d/2}) is turned (arXiv 2104.09864, the library's layout)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
