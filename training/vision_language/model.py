"""The network: Qwen2.5-VL at toy size, and faster forward passes for training.

The classes are the library's own and stay unmodified; the functions here compute the same values
for batches of equal grids (checked by `check_vision`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    Qwen2_5_VLVisionBlock,
)

from training.vision_language.pixels import CELL, LABELS, MERGE, PATCH, Size
from training.vision_language.scenes import SHAPES

Turns = tuple[torch.Tensor, torch.Tensor]
VISION = {
    "hidden_size": 160, "depth": 4, "num_heads": 5, "intermediate_size": 400, "patch_size": PATCH,
    "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [1, 3], "out_hidden_size": 192,
}  # fmt: skip
TEXT = {
    "hidden_size": 192, "num_hidden_layers": 5, "num_attention_heads": 3, "num_key_value_heads": 3,
    "intermediate_size": 512, "max_position_embeddings": 2048, "bos_token_id": None,
    # The width axis sits on the slowest frequencies. A small base and the largest section make
    # neighbouring columns differ enough for left and right to be learnt.
    "rope_parameters": {"rope_type": "default", "rope_theta": 40.0, "mrope_section": [4, 6, 22]},
}  # fmt: skip


def build(vocab_size: int, ids: dict[str, int]) -> Qwen2_5_VLForConditionalGeneration:
    """A fresh model; `ids` maps special-token text to its id."""
    stop, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    text = {**TEXT, "vocab_size": vocab_size, "eos_token_id": stop, "pad_token_id": pad}
    # Tying belongs at the top; the library reads it there.
    config = Qwen2_5_VLConfig(
        text_config={**text, "tie_word_embeddings": True},
        vision_config=VISION,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)


@lru_cache(maxsize=64)
def patch_places(grid: Size) -> torch.Tensor:
    """Row and column [n, 2] of every patch, in the processor's cell-by-cell order."""
    cell = torch.cartesian_prod(*(torch.arange(n) for n in grid)).repeat_interleave(MERGE**2, 0)
    inner = torch.cartesian_prod(torch.arange(MERGE), torch.arange(MERGE))
    return cell * MERGE + inner.repeat(grid[0] * grid[1], 1)


@lru_cache(maxsize=64)
def window_bias(grid: Size, window: int) -> torch.Tensor:
    """Scores [n, n] to add: zero where two patches lie in the same attention window, else -inf."""
    place = patch_places(grid) // MERGE // (window // CELL)
    # No grid has a thousand columns, so the sum names a window uniquely.
    name = place[:, 0] * 1000 + place[:, 1]
    return torch.zeros(len(name), len(name)).masked_fill(name[:, None] != name[None, :], -math.inf)


def linear(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """A linear layer computed in bfloat16: 2.5 times as fast as float32 on a recent CPU."""
    bias = None if layer.bias is None else layer.bias.bfloat16()
    return functional.linear(x.bfloat16(), layer.weight.bfloat16(), bias)


def norm(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """RMSNorm of the float32 stream, rounded to bfloat16 for the layer behind it."""
    weight = cast(torch.Tensor, layer.weight)
    return functional.rms_norm(x, (x.shape[-1],), weight, 1e-6).bfloat16()


def rotate(x: torch.Tensor, turns: Turns) -> torch.Tensor:
    """Rotary positions on [batch, n, heads, width]; `turns` broadcast over the heads."""
    one, two = x.chunk(2, -1)
    return (x * turns[0] + torch.cat((-two, one), -1) * turns[1]).bfloat16()


def mix(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Attention over [batch, n, heads, width]; `bias` is [batch * heads, n, n] or broadcasts.

    Plain matrix products: on a CPU they take two thirds of the time of the library's fused
    attention, whose backward pass is slow.
    """
    batch, length, heads, width = query.shape
    query, key, value = (part.transpose(1, 2).reshape(batch * heads, length, width) for part in (query, key, value))
    scale, keys = width**-0.5, key.transpose(1, 2)
    scores = torch.bmm(query, keys) * scale if bias is None else torch.baddbmm(bias, query, keys, alpha=scale)
    mixed = torch.bmm(scores.softmax(-1), value).view(batch, heads, length, width)
    return mixed.transpose(1, 2).reshape(batch, length, heads * width)


def feed(x: torch.Tensor, mlp: Any) -> torch.Tensor:
    """The gated feed-forward layer, gate and input in one product."""
    gate, up = linear(x, mlp.gate_proj), linear(x, mlp.up_proj)
    return linear(functional.silu(gate) * up, mlp.down_proj)


def vision_attention(
    attention: Qwen2_5_VLVisionAttention, x: torch.Tensor, turns: Turns, bias: torch.Tensor | None
) -> torch.Tensor:
    """One block's attention over [batch, n, hidden], all pictures at once."""
    shape = (*x.shape[:2], 3, attention.num_heads, attention.head_dim)
    query, key, value = linear(x, attention.qkv).view(shape).unbind(2)
    return linear(mix(rotate(query, turns), rotate(key, turns), value, bias), attention.proj)


def vision_features(visual: Qwen2_5_VisionTransformerPretrainedModel, cut: torch.Tensor, grid: Size) -> torch.Tensor:
    """Features [batch, cells, out_hidden] from patches [batch, n, 588] of one grid.

    Same values as the library's forward pass, without its loop over windows.
    """
    # Both frames of a still picture are equal, so the sum of the two halves does the work once.
    weight = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = functional.linear(cut.bfloat16(), weight.bfloat16()).float()
    cos, sin = visual.rotary_pos_emb(x, patch_places(grid).to(x.device))
    turns = (cos[:, None].bfloat16(), sin[:, None].bfloat16())
    windows = window_bias(grid, visual.window_size).to(x.device, torch.bfloat16)
    for index, block in enumerate(visual.blocks):
        assert isinstance(block, Qwen2_5_VLVisionBlock)
        bias = None if index in visual.fullatt_block_indexes else windows
        x = x + vision_attention(block.attn, norm(x, block.norm1), turns, bias)
        x = x + feed(norm(x, block.norm2), block.mlp)
    merged = norm(x, visual.merger.ln_q).view(len(cut), grid[0] * grid[1], -1)
    into, act, out = cast(Any, visual.merger.mlp)
    return linear(act(linear(merged, into)), out)


def text_features(language: Any, embeds: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Last hidden states [b, n, hidden]; `mask` [b, 1, n, n] is true where a key is seen.

    Same values as the library's forward pass, with products in bfloat16.
    """
    cos, sin = language.rotary_emb(embeds, positions)
    turns = (cos[:, :, None].bfloat16(), sin[:, :, None].bfloat16())
    x, shape = embeds, (*embeds.shape[:2], -1, language.layers[0].self_attn.head_dim)
    heads = language.config.num_attention_heads
    bias = torch.zeros_like(mask, dtype=torch.bfloat16).masked_fill(~mask, -math.inf)
    bias = bias.expand(-1, heads, -1, -1).flatten(0, 1)
    for layer in language.layers:
        part, y = layer.self_attn, norm(x, layer.input_layernorm)
        query, key, value = (linear(y, proj).view(shape) for proj in (part.q_proj, part.k_proj, part.v_proj))
        x = x + linear(mix(rotate(query, turns), rotate(key, turns), value, bias), part.o_proj)
        x = x + feed(norm(x, layer.post_attention_layernorm), layer.mlp)
    return norm(x, language.norm)


class CellHead(nn.Module):
    """Throw-away classifier of every cell (see `pixels.LABELS`). Not part of the product."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(LABELS.values()))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits per question, each [batch, cells, classes]."""
        return torch.split(self.out(self.norm(features.float())), list(LABELS.values()), dim=-1)


# How much an empty cell counts for each question; most cells are empty.
EMPTY = {"kind": 0.15, "colour": 0.1, "rank": 0.3, "second": 0.03, "third": 0.0, "size": 0.0}
SHARE = {"kind": 1.0, "colour": 0.7, "rank": 1.0, "second": 0.3, "third": 0.4, "size": 0.3}


def cell_loss(logits: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy over all answers; empty cells count little, they are most."""
    loss = logits[0].new_zeros(())
    for index, (name, scores) in enumerate(zip(LABELS, logits, strict=True)):
        truth, flat = labels[..., index].reshape(-1), scores.flatten(0, 1)
        weight = torch.where(truth == 0, EMPTY[name], 1.0)
        losses = functional.cross_entropy(flat, truth, reduction="none")
        loss = loss + SHARE[name] * (losses * weight).sum() / weight.sum().clamp(min=1)
    return loss


@torch.no_grad()
def cell_accuracy(logits: tuple[torch.Tensor, ...], labels: torch.Tensor) -> dict[str, float]:
    """Shares right where items or characters have their centres."""
    right = {
        name: scores.argmax(-1) == labels[..., index]
        for index, (name, scores) in enumerate(zip(LABELS, logits, strict=True))
    }
    kind, centre = labels[..., 0], labels[..., 2] > 0
    shapes, characters = centre & (kind <= len(SHAPES)), centre & (kind > len(SHAPES))
    second = labels[..., 3] > 0
    return {
        "shape": right["kind"][shapes].float().mean().item(),
        "letter": right["kind"][characters].float().mean().item(),
        "second": right["second"][second].float().mean().item(),
        "colour": right["colour"][centre].float().mean().item(),
        "rank": right["rank"][shapes].float().mean().item(),
        "place": right["third"][shapes].float().mean().item(),
        "size": right["size"][shapes].float().mean().item(),
    }


@torch.no_grad()
def check_vision(model: Qwen2_5_VLForConditionalGeneration, grid: Size) -> float:
    """Largest relative difference between `vision_features` and the library's own forward pass."""
    visual = model.model.visual
    count = grid[0] * grid[1] * MERGE**2
    cut = torch.randn(2, count, 3 * PATCH**2)
    frames = cut.view(2 * count, 3, 1, -1).expand(-1, -1, 2, -1).reshape(2 * count, -1)
    sizes = torch.tensor([[1, grid[0] * MERGE, grid[1] * MERGE]] * 2)
    theirs = visual(frames, sizes).pooler_output
    ours = vision_features(visual, cut, grid).flatten(0, 1).float()
    return float((ours - theirs).abs().max() / theirs.abs().max())
