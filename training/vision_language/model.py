"""The network: Qwen2.5-VL at toy size, and faster forward passes for training.

The classes are the library's own and stay unmodified; the functions here compute the same values
for batches of equal grids (checked by `check_vision`).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionAttention,
    Qwen2_5_VLVisionBlock,
    apply_rotary_pos_emb_vision,
)

from training.vision_language.pixels import CELL, MERGE, PATCH, Size
from training.vision_language.scenes import COLOURS, SHAPES

Turns = tuple[torch.Tensor, torch.Tensor]
VISION = {
    "hidden_size": 128, "depth": 4, "num_heads": 4, "intermediate_size": 320, "patch_size": PATCH,
    "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [1, 3], "out_hidden_size": 192,
}  # fmt: skip
TEXT = {
    "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "num_key_value_heads": 3,
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
def window_mask(grid: Size, window: int) -> torch.Tensor:
    """Mask [n, n]: true where two patches lie in the same attention window."""
    place = patch_places(grid) // MERGE // (window // CELL)
    # No grid has a thousand columns, so the sum names a window uniquely.
    name = place[:, 0] * 1000 + place[:, 1]
    return name[:, None] == name[None, :]


def vision_attention(
    attention: Qwen2_5_VLVisionAttention, x: torch.Tensor, turns: Turns, mask: torch.Tensor | None
) -> torch.Tensor:
    """One block's attention over [batch, n, hidden], all pictures at once."""
    shape = (*x.shape[:2], 3, attention.num_heads, attention.head_dim)
    query, key, value = attention.qkv(x).view(shape).permute(2, 0, 1, 3, 4).unbind(0)
    query, key = apply_rotary_pos_emb_vision(query, key, *turns)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    result: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(x.shape))
    return result


def vision_features(
    visual: Qwen2_5_VisionTransformerPretrainedModel, cut: torch.Tensor, grid: Size
) -> torch.Tensor:
    """Features [batch, cells, out_hidden] from patches [batch, n, 588] of one grid.

    Same values as the library's forward pass, without its loop over windows.
    """
    # Both frames of a still picture are equal, so the sum of the two halves does the work once.
    weight = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x = functional.linear(cut, weight)
    turns = visual.rotary_pos_emb(x, patch_places(grid).to(x.device))
    windows = window_mask(grid, visual.window_size).to(x.device)
    for index, block in enumerate(visual.blocks):
        assert isinstance(block, Qwen2_5_VLVisionBlock)
        mask = None if index in visual.fullatt_block_indexes else windows
        x = x + vision_attention(block.attn, block.norm1(x), turns, mask)
        x = x + block.mlp(block.norm2(x))
    merged: torch.Tensor = visual.merger(x)
    return merged.view(len(cut), grid[0] * grid[1], -1)


class CellHead(nn.Module):
    """Throw-away classifier of every cell: shape, colour, centre. Not part of the product."""

    sizes = (len(SHAPES) + 1, len(COLOURS) + 1, 2)

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits per question, each [batch, cells, classes]."""
        return torch.split(self.out(self.norm(features)), list(self.sizes), dim=-1)


def cell_loss(logits: tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy over all three answers; empty cells count little, they are most."""
    loss = logits[0].new_zeros(())
    for index, scores in enumerate(logits):
        weight = torch.full((scores.shape[-1],), 1.0, device=scores.device)
        weight[0] = 0.15 if index < 2 else 0.4
        truth = labels[..., index].reshape(-1)
        loss = loss + functional.cross_entropy(scores.flatten(0, 1).float(), truth, weight)
    return loss


@torch.no_grad()
def cell_accuracy(logits: tuple[torch.Tensor, ...], labels: torch.Tensor) -> list[float]:
    """Shares right: shape and colour at item centres, and centre cells found (F1)."""
    centre = labels[..., 2] == 1
    right = [(logits[k].argmax(-1) == labels[..., k])[centre].float().mean().item() for k in (0, 1)]
    # Most cells are no centre; plain accuracy would look fine without finding any.
    found = logits[2].argmax(-1) == 1
    both = (found & centre).sum().item()
    return [*right, 2 * both / max(1, int(found.sum() + centre.sum()))]


@torch.no_grad()
def check_vision(model: Qwen2_5_VLForConditionalGeneration, grid: Size) -> float:
    """Largest difference between `vision_features` and the library's own forward pass."""
    visual = model.model.visual
    count = grid[0] * grid[1] * MERGE**2
    cut = torch.randn(2, count, 3 * PATCH**2)
    frames = cut.view(2 * count, 3, 1, -1).expand(-1, -1, 2, -1).reshape(2 * count, -1)
    sizes = torch.tensor([[1, grid[0] * MERGE, grid[1] * MERGE]] * 2)
    theirs = visual(frames, sizes).pooler_output
    return float((vision_features(visual, cut, grid).flatten(0, 1) - theirs).abs().max())
