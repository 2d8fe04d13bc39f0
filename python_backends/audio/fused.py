"""Whisper's encoder, and a token of its decoder, with one compiled loop for all that lies between two products.

Uses the weights and the linear layers of Hugging Face's modules. Without this, half of the time of a small checkpoint
goes to many little operators and to memory that is taken and given back for what comes out of each. Refuses to know
slots, windows and other devices than CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from python_backends.compiled.attention import attend_tokens, store_tokens
from python_backends.compiled.layers import add_layer_norm, gelu
from python_backends.compiled.numbers import COMPILED, Array, as_array, as_tensor
from python_backends.torch_engine.kernels import Product, product
from python_backends.torch_engine.linear import PackedLinear, Part
from python_backends.whole_attention import attend_whole


@dataclass(frozen=True)
class Heard:
    """Keys and values of one layer, each [slots, heads, length, head_dim]."""

    keys: Array
    values: Array


class FusedEncoder:
    """The encoder of a checkpoint in bfloat16 that `can_fuse`."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._heads = encoder.config.encoder_attention_heads
        self._norm = _Norm.of(encoder.layer_norm)
        self._layers = [_EncoderLayer(layer) for layer in encoder.layers]

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """features [mels, frames] of one window -> states [positions, d]."""
        sound = features[None]
        for convolution in (self._encoder.conv1, self._encoder.conv2):
            sound = convolution(sound)
            gelu(as_array(sound[0]))
        more = as_array((sound[0].T + self._encoder.embed_positions.weight).contiguous())
        hidden, normed = np.zeros_like(more), np.empty_like(more)
        for layer in self._layers:
            more = layer(hidden, more, normed, self._heads)
        self._norm.add(hidden, more, normed)
        return as_tensor(normed)


class FusedTokens:
    """The layers of a decoder that `can_fuse`, for one token of each window."""

    def __init__(self, decoder: Any, longest: int) -> None:
        self._heads = decoder.config.decoder_attention_heads
        self._layers = [_DecoderLayer(layer) for layer in decoder.layers]
        self._positions = as_array(decoder.embed_positions.weight.detach())
        self._room = as_array(torch.empty(torch.get_num_threads(), 2 * decoder.config.d_model // self._heads + longest))

    def __call__(
        self, embeddings: torch.Tensor, positions: Array, said: list[Heard], heard: list[Heard]
    ) -> torch.Tensor:
        """embeddings [rows, d] of the tokens, at positions [rows] of the first slots -> states [rows, d].

        What was said and heard is of each layer; the new keys and values are put to what was said.
        """
        hidden, more = as_array(embeddings), self._positions[positions]
        work = _Work(hidden, np.empty_like(hidden), positions, np.arange(len(hidden)), self._heads, self._room)
        for layer, before, sound in zip(self._layers, said, heard, strict=True):
            more = layer(more, work, before, sound)
        return as_tensor(hidden) + as_tensor(more)


def can_fuse(part: Any) -> bool:
    """Whether an encoder or a decoder is computed as this file does it."""
    return part.device.type == "cpu" and part.dtype in COMPILED and part.config.activation_function == "gelu"


@dataclass(frozen=True)
class _Work:
    """What the layers share of a step: the sum so far, room for its norm, and where each row is."""

    hidden: Array
    normed: Array
    positions: Array
    slots: Array
    num_heads: int
    room: Array

    def add(self, more: Array, norm: _Norm) -> Array:
        norm.add(self.hidden, more, self.normed)
        return self.normed

    def attend(self, query: Array, places: Heard, last: Array, scale: np.float32) -> Array:
        """query [rows, heads, head_dim] over the keys up to `last` [rows] -> [rows, d]."""
        output = np.empty((len(query), query.shape[1] * query.shape[2]), query.dtype)
        attend_tokens(
            query, places.keys, places.values, self.slots, last, 0, scale, self.room, output.reshape(query.shape)
        )
        return output


@dataclass(frozen=True)
class _Norm:
    """The layer norm of what is summed up."""

    weight: Array
    bias: Array
    eps: np.float32

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> _Norm:
        return cls(as_array(norm.weight.detach()), as_array(norm.bias.detach()), np.float32(norm.eps))

    def add(self, hidden: Array, more: Array, output: Array) -> None:
        """hidden += more; output becomes the norm of that; all [rows, d]."""
        add_layer_norm(hidden, more, self.weight, self.bias, self.eps, output)


class _Layer:
    """What layers of both kinds have: attention to themselves and two products at the end."""

    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self.norm, self.last_norm = _Norm.of(layer.self_attn_layer_norm), _Norm.of(layer.final_layer_norm)
        self.qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _product(attention.out_proj)
        self.scale = np.float32(attention.scaling)
        self._products = _product(layer.fc1), _product(layer.fc2)

    def mlp(self, normed: Array) -> Array:
        first, second = self._products
        between = first(normed)
        gelu(between)
        return second(between)


class _EncoderLayer(_Layer):
    def __call__(self, hidden: Array, more: Array, normed: Array, num_heads: int) -> Array:
        """What this layer adds to `hidden` after `more`; `normed` is room."""
        self.norm.add(hidden, more, normed)
        query, keys, values = as_tensor(self.qkv(normed)).view(len(hidden), 3, num_heads, -1).permute(1, 2, 0, 3)
        attended = attend_whole(query, keys, values, float(self.scale)).transpose(0, 1)
        self.last_norm.add(hidden, self.out(as_array(attended.flatten(1))), normed)
        return self.mlp(normed)


class _DecoderLayer(_Layer):
    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        attention = layer.encoder_attn
        self.heard_norm = _Norm.of(layer.encoder_attn_layer_norm)
        self.heard_query, self.heard_out = _product(attention.q_proj), _product(attention.out_proj)

    def __call__(self, more: Array, work: _Work, said: Heard, heard: Heard) -> Array:
        rows = len(more)
        heads = self.qkv(work.add(more, self.norm)).reshape(rows, 3, work.num_heads, -1)
        store_tokens(heads[:, 1], said.keys, work.positions)
        store_tokens(heads[:, 2], said.values, work.positions)
        more = self.out(work.attend(heads[:, 0], said, work.positions, self.scale))
        query = self.heard_query(work.add(more, self.heard_norm)).reshape(rows, work.num_heads, -1)
        last = np.full(rows, heard.keys.shape[2] - 1)
        more = self.heard_out(work.attend(query, heard, last, self.scale))
        return self.mlp(work.add(more, self.last_norm))


def _product(layer: Any) -> Product:
    return product(layer.kernel if isinstance(layer, PackedLinear) else layer)


def _joined(*layers: Any) -> Product:
    """Of layers with the same input, one after the other."""
    first = layers[0]
    if isinstance(first, Part):
        return product(first.shared.kernel)
    products = [_product(layer) for layer in layers]
    return lambda x: np.concatenate([each(x) for each in products], axis=1)
