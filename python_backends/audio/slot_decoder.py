"""The decoder of a Whisper checkpoint over static slots: one row per window, each at a position of its own.

Knows torch and the modules of Hugging Face's WhisperDecoder, whose weights and layers it uses; the attention is done
here, because the library's caches hold rows of one length only. Refuses to know tokens' meanings and requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from python_backends.audio.fused import FusedTokens, Heard, can_fuse
from python_backends.compiled.numbers import Array, as_array


class Listening:
    """Collects what the tokens of one window listen to, in the given (layer, head) pairs: [heads, tokens, positions].

    Only the first num_positions are looked at; behind them lies padding.
    """

    def __init__(self, heads: Sequence[tuple[int, int]], num_positions: int) -> None:
        self._heads: dict[int, list[int]] = {}
        self._num_positions = num_positions
        self._found: list[torch.Tensor] = []
        for layer, head in heads:
            self._heads.setdefault(layer, []).append(head)

    def note(self, layer: int, query: torch.Tensor, keys: torch.Tensor) -> None:
        """Queries and keys [1, heads, n, d] of a layer."""
        if layer in self._heads:
            scores = query @ keys[:, :, : self._num_positions].transpose(-1, -2)
            self._found.append(scores[0, self._heads[layer]].float().softmax(-1))

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat(self._found)


class SlotDecoder:
    """Keys and values of `num_slots` windows: of the text so far, and of what was heard, computed once per window.

    Running windows lie in the first slots without a gap, so that a step reads views and copies nothing.
    """

    def __init__(self, model: Any, num_slots: int) -> None:
        self._decoder = model.model.decoder
        self._proj_out = model.proj_out
        config = model.config
        heads = config.decoder_attention_heads
        self._heads = (heads, config.d_model // heads)
        self._device, dtype = model.device, model.dtype
        layers = config.decoder_layers

        def places(length: int) -> torch.Tensor:
            shape = (layers, num_slots, heads, length, config.d_model // heads)
            return torch.zeros(shape, dtype=dtype, device=self._device)

        self._keys, self._values = places(config.max_target_positions), places(config.max_target_positions)
        self._heard_keys, self._heard_values = (
            places(config.max_source_positions),
            places(config.max_source_positions),
        )

        longest = max(config.max_source_positions, config.max_target_positions)
        self._tokens = FusedTokens(self._decoder, longest) if can_fuse(self._decoder) else None
        if self._tokens is not None:
            self._said_before = _by_layer(self._keys, self._values)
            self._sounds = _by_layer(self._heard_keys, self._heard_values)

    def __repr__(self) -> str:
        return f"<SlotDecoder of {self._keys.shape[1]} slots, {self._keys.shape[3]} positions>"

    def hear(self, first: int, hidden: torch.Tensor) -> None:
        """Take encoder states [n, positions, d] into the slots from `first` on."""
        slots = slice(first, first + len(hidden))
        for number, layer in enumerate(self._decoder.layers):
            self._heard_keys[number, slots] = self._split(layer.encoder_attn.k_proj(hidden))
            self._heard_values[number, slots] = self._split(layer.encoder_attn.v_proj(hidden))

    def forward(
        self, first: int, ids: torch.Tensor, starts: Sequence[int], listening: Listening | None = None
    ) -> torch.Tensor:
        """Decoder states [n, t, d] of tokens ids [n, t] in the slots from `first` on, at positions from `starts` on."""
        num, length = ids.shape
        if length == 1 and first == 0 and listening is None and self._tokens is not None:
            return self._token(ids, np.array(starts))
        positions = torch.tensor(starts, device=self._device)[:, None] + torch.arange(length, device=self._device)
        decoder = self._decoder
        hidden = decoder.embed_tokens(ids) * decoder.embed_scale + decoder.embed_positions.weight[positions]
        end = max(starts) + length
        mask = (torch.arange(end, device=self._device) <= positions[..., None])[:, None]
        slots = slice(first, first + num)
        for number, layer in enumerate(decoder.layers):
            hidden = hidden + self._said(number, layer, hidden, slots, positions, mask)
            hidden = hidden + self._heard(number, layer, hidden, slots, listening)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        states: torch.Tensor = hidden
        return states

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., vocabulary] float32 of decoder states [..., d]."""
        scores: torch.Tensor = self._proj_out(self._decoder.layer_norm(hidden)).float()
        return scores

    def move(self, source: int, target: int) -> None:
        """Put the window of one slot into another."""
        for places in (self._keys, self._values, self._heard_keys, self._heard_values):
            places[:, target] = places[:, source]

    def _token(self, ids: torch.Tensor, positions: Array) -> torch.Tensor:
        """As `forward`, of one token of each window."""
        assert self._tokens is not None
        embeddings = self._decoder.embed_tokens(ids[:, 0]) * self._decoder.embed_scale
        return self._tokens(embeddings, positions, self._said_before, self._sounds)[:, None]

    def _said(
        self, number: int, layer: Any, hidden: torch.Tensor, slots: slice, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Self-attention; keys and values of the new tokens are kept."""
        attention, hidden = layer.self_attn, layer.self_attn_layer_norm(hidden)
        query = self._query(attention, hidden)
        keys, values = self._keys[number, slots], self._values[number, slots]
        new = (self._split(attention.k_proj(hidden)), self._split(attention.v_proj(hidden)))
        rows = torch.arange(len(hidden), device=self._device)[:, None]
        keys[rows, :, positions], values[rows, :, positions] = (each.transpose(1, 2) for each in new)
        end = mask.shape[-1]
        attended = scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end], mask, scale=1.0)
        return self._joined(attention, attended)

    def _heard(
        self, number: int, layer: Any, hidden: torch.Tensor, slots: slice, listening: Listening | None
    ) -> torch.Tensor:
        """Cross-attention to what the encoder heard."""
        attention = layer.encoder_attn
        query = self._query(attention, layer.encoder_attn_layer_norm(hidden))
        keys, values = self._heard_keys[number, slots], self._heard_values[number, slots]
        if listening is not None:
            listening.note(number, query, keys)
        return self._joined(attention, scaled_dot_product_attention(query, keys, values, scale=1.0))

    def _query(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        # Scaled before the product, as the library does it: float16 overflows otherwise.
        return self._split(attention.q_proj(hidden) * attention.scaling)

    def _split(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.view(*hidden.shape[:-1], *self._heads).transpose(1, 2)

    def _joined(self, attention: Any, mixed: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return joined


def _by_layer(keys: torch.Tensor, values: torch.Tensor) -> list[Heard]:
    return [Heard(*layer) for layer in zip(as_array(keys), as_array(values), strict=True)]
