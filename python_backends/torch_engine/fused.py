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

import numpy as np
import torch
from torch import nn
from torch.nn.functional import silu

from python_backends.compiled.attention import rotate_and_store
from python_backends.compiled.layers import add_norm, silu_mul
from python_backends.compiled.numbers import COMPILED, Array, as_array, as_tensor
from python_backends.torch_engine.attention import Layer, StepContext, attend, attend_array
from python_backends.torch_engine.kernels import CompactBf16, Kernel, Product, product
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

    weight: Array
    eps: float

    def add(self, hidden: Array, more: Array, output: Array) -> None:
        """hidden += more; output becomes the norm of that; all [rows, hidden]."""
        add_norm(hidden, more, self.weight, np.float32(self.eps), output)


class Activations:
    """What the layers of a step share: the sum of all so far, its norm, and where each row is; all [rows, ...]."""

    def __init__(
        self, embeddings: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], step: StepContext
    ) -> None:
        self.embeddings = as_array(embeddings.contiguous())
        self.hidden, self.normed = np.zeros_like(self.embeddings), np.empty_like(self.embeddings)
        self.cos, self.sin = (as_array(part.reshape(len(embeddings), -1)) for part in rotation)
        self.slots, self.positions = step.rows.places()

    def add(self, more: Array, norm: Norm) -> Array:
        """The norm of the sum with `more` in it."""
        norm.add(self.hidden, more, self.normed)
        return self.normed

    def keep(self, rows: list[int]) -> None:
        """Forget all but these rows of the sum and of its norm."""
        self.hidden, self.normed = self.hidden[rows], self.normed[rows]


@dataclass(frozen=True)
class FusedLayer:
    attention: Layer
    num_heads: int
    head_dim: int
    norm: Norm
    qkv: Product
    output: Product
    head_norms: Array
    head_eps: float
    mlp_norm: Norm
    gated: Product
    down: Product

    def __call__(self, more: Array, work: Activations, step: StepContext, wanted: list[int] | None = None) -> Array:
        """more [rows, hidden], what the layer before adds -> [rows or wanted, hidden], what this one does.

        Only keys and values are computed of rows that are not wanted, and `work` is left with those that are.
        """
        query = self._query(self.qkv(work.add(more, self.norm)), work, step)
        if wanted is not None:
            work.keep(wanted)
        if wanted == []:
            return more[:0]
        attended = attend_array(self.attention, query, step).reshape(len(query), -1)
        added = self.output(attended if wanted is None else attended[wanted])
        return self.down(self.gated(work.add(added, self.mlp_norm)))

    def _query(self, heads: Array, work: Activations, step: StepContext) -> Array:
        """The queries [rows, heads, head_dim] of all `heads` [rows, size]; keys and values are put into the cache."""
        rows = len(heads)
        query = np.empty((rows, self.num_heads, self.head_dim), heads.dtype)
        keys, values = step.cache.arrays[self.attention.index]
        rotate_and_store(
            heads.reshape(rows, -1, self.head_dim), work.cos, work.sin, self.head_norms, np.float32(self.head_eps),
            keys, values, work.slots, work.positions, query,
        )  # fmt: skip
        return query


class FusedDecoder:
    """All layers, from embeddings to normed hidden states."""

    def __init__(self, layers: Sequence[FusedLayer], rotary: Callable[..., Any], norm: Norm) -> None:
        self._layers, self._rotary, self._norm = layers, rotary, norm

    def __call__(
        self, embeddings: torch.Tensor, position_ids: torch.Tensor, step: StepContext, wanted: list[int]
    ) -> torch.Tensor:
        """embeddings [rows, hidden], position_ids as the library's decoder takes them -> [wanted rows, hidden]."""
        work = Activations(embeddings, self._rotary(embeddings[None], position_ids), step)
        *layers, last = self._layers
        more = work.embeddings
        for layer in layers:
            more = layer(more, work, step)
        more = last(more, work, step, wanted)
        return as_tensor(work.add(more, self._norm) if wanted else more)


def fuse(decoder: Any, calls: list[LayerCall]) -> FusedDecoder | None:
    """The same decoder, fused; None if it has other parts than the common ones, or its linear layers are not packed.

    `calls` are what the layers ask of attention.
    """
    if decoder.dtype not in COMPILED or not _has(decoder, _DECODER) or not all(map(_is_common, decoder.layers)):
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
    if not call.scales_only or not _is_silu(mlp.act_fn):
        return None
    first, second = norms
    assert first is not None and second is not None
    no_norms = first.weight[:0].reshape(0, 1)
    return FusedLayer(
        attention=Layer(call.index, call.scaling, call.window, attend),
        num_heads=attention.q_proj.columns.stop // shape.key_dim,
        head_dim=shape.key_dim,
        norm=first,
        qkv=product(attention.q_proj.shared.kernel),
        output=product(attention.o_proj.kernel),
        head_norms=np.stack([norm.weight for norm in head_norms if norm]) if head_norms else no_norms,
        head_eps=head_norms[0].eps if head_norms and head_norms[0] else 0.0,
        mlp_norm=second,
        gated=_gated(mlp.gate_proj.shared.kernel),
        down=product(mlp.down_proj.kernel),
    )


def _gated(gate_up: Kernel) -> Product:
    """silu(gate(x)) * up(x) of a kernel for both."""
    if isinstance(gate_up, CompactBf16) and gate_up.has_halves:
        return gate_up.gated
    multiply = product(gate_up)

    def gated(x: Array) -> Array:
        both = multiply(x)
        output = np.empty((len(both), both.shape[1] // 2), both.dtype)
        silu_mul(both, output)
        return output

    return gated


def _is_silu(activation: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    x = torch.linspace(-8, 8, 101)
    return torch.allclose(activation(x), silu(x))


@torch.inference_mode()
def _norm(module: Any) -> Norm | None:
    """The library's RMS norm as one operator; None if it is another kind, such as one that adds 1 to its weights."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if eps is None or [name for name, _ in module.named_parameters()] != ["weight"]:
        return None
    x = torch.randn(4, len(module.weight), generator=torch.Generator().manual_seed(0)).to(module.weight)
    found, normed = Norm(as_array(module.weight.detach()), float(eps)), torch.empty_like(x)
    found.add(as_array(torch.zeros_like(x)), as_array(x), as_array(normed))
    wanted = module(x).float()
    return found if (normed.float() - wanted).norm() < 0.01 * wanted.norm() else None
