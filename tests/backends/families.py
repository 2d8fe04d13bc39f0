"""Checkpoints of several families with random weights, and what `generate` makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from python_backends.types import ImageSpan

VOCAB, HIDDEN, LAYERS, KV_HEADS, HEAD_DIM = 96, 32, 2, 2, 8
EOS, IMAGE, VISION_START, VISION_END, VIDEO = 1, 90, 91, 92, 93
BYTES_PER_TOKEN = 2 * LAYERS * KV_HEADS * HEAD_DIM * 4
MAX_LEN = 256
_PATCH_VALUES = 3 * 2 * 4 * 4

# The range makes greedy text vary instead of repeating one token.
_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": MAX_LEN,
    "initializer_range": 0.3,
    "eos_token_id": EOS,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_IMAGE_TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_VISION: dict[str, Any] = {"depth": 1, "num_heads": 2, "patch_size": 4, "in_channels": 3, "temporal_patch_size": 2}


def _qwen2_vl() -> Any:
    vision = {**_VISION, "embed_dim": 16, "hidden_size": HIDDEN, "mlp_ratio": 2}
    text = {**_TEXT, "rope_parameters": _ROPE}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **_IMAGE_TOKENS))


def _qwen2_5_vl() -> Any:
    vision = {**_VISION, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": HIDDEN}
    vision |= {"fullatt_block_indexes": [0], "window_size": 16}
    text = {**_TEXT, "rope_parameters": _ROPE}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_IMAGE_TOKENS))


TEXT_FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_TEXT)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_TEXT, sliding_window=7)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_TEXT)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_TEXT, head_dim=HEAD_DIM)),
}
VISION_FAMILIES: dict[str, Callable[[], Any]] = {"qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl}
FAMILIES = {**TEXT_FAMILIES, **VISION_FAMILIES}


@dataclass(frozen=True)
class Picture:
    """pixel_values [patches, values per patch] and its grid, as an image processor makes them."""

    pixels: torch.Tensor
    grid: tuple[int, int, int]

    @property
    def num_tokens(self) -> int:
        return self.grid[1] * self.grid[2] // 4


def picture(seed: int, height: int = 4, width: int = 4) -> Picture:
    generator = torch.Generator().manual_seed(seed)
    return Picture(torch.randn(height * width, _PATCH_VALUES, generator=generator), (1, height, width))


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()


def text_prompt(seed: int, length: int) -> Prompt:
    drawn = torch.randint(2, 80, (length,), generator=torch.Generator().manual_seed(seed))
    return Prompt(tuple(drawn.tolist()))


def picture_prompt(*parts: Prompt | Picture) -> Prompt:
    """Text and pictures in order, every picture between its two marks."""
    ids: list[int] = []
    for part in parts:
        ids += part.ids if isinstance(part, Prompt) else (VISION_START, *[IMAGE] * part.num_tokens, VISION_END)
    return Prompt(tuple(ids), tuple(part for part in parts if isinstance(part, Picture)))


class Family:
    """A saved checkpoint and the model that transformers loads from it, float32."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        torch.manual_seed(4)
        model = FAMILIES[name]()
        tower = getattr(model.model, "visual", None)
        for weight in tower.parameters() if tower is not None else ():
            torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(folder)
        self.model: Any = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        self.sees = name in VISION_FAMILIES
        self.generate = cache(self._generate)

    def _generate(self, prompt: Prompt, num_tokens: int) -> list[int]:
        """Greedy tokens by `generate`, the end token included."""
        ids = torch.tensor([prompt.ids])
        extra: dict[str, Any] = {}
        if prompt.pictures:
            extra = {"pixel_values": torch.cat([each.pixels for each in prompt.pictures])}
            extra["image_grid_thw"] = torch.tensor([each.grid for each in prompt.pictures])
        if self.sees:
            extra["mm_token_type_ids"] = (ids == IMAGE).int()
        with torch.inference_mode():
            output = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, **extra
            )
        return list(output[0, ids.shape[1] :].tolist())

    def spans(self, prompt: Prompt) -> tuple[ImageSpan, ...]:
        """The prompt's images with the features of the model's own vision tower."""
        starts = [place + 1 for place, token in enumerate(prompt.ids) if token == VISION_START]
        return tuple(self._span(start, each) for start, each in zip(starts, prompt.pictures, strict=True))

    def _span(self, start: int, each: Picture) -> ImageSpan:
        with torch.inference_mode():
            found = self.model.get_image_features(each.pixels, torch.tensor([each.grid])).pooler_output
        features = found[0] if isinstance(found, tuple | list) else found
        return ImageSpan(start, np.array(features), each.grid, each.pixels.numpy().tobytes()[:64])
