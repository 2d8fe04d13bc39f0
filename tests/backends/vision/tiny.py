"""Vision checkpoints of random weights, small enough to be made for each test run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
MIN_PIXELS, MAX_PIXELS = 56 * 56, 140 * 140


def save(folder: Path, family: str) -> Path:
    """Write a checkpoint of `qwen2_vl`, `qwen2_5_vl` or `llava` to folder/family."""
    torch.manual_seed(7)
    model, processor = _MAKERS[family]()
    model.float().save_pretrained(folder / family)
    processor.save_pretrained(folder / family)
    return folder / family


def _qwen2_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "in_channels": 3}
    config = Qwen2VLConfig(text_config=TEXT, vision_config=vision, image_token_id=5, video_token_id=6)
    return Qwen2VLForConditionalGeneration(config), _qwen_processor()


def _qwen2_5_vl() -> tuple[Any, Any]:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, image_token_id=5, video_token_id=6)
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor()


def _llava() -> tuple[Any, Any]:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "projection_dim": 32,
    }
    text = {"model_type": "llama", **{key: value for key, value in TEXT.items() if key != "rope_parameters"}}
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=5)
    size = {"height": 56, "width": 56}
    return LlavaForConditionalGeneration(config), CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size)


def _qwen_processor() -> Any:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS})


_MAKERS = {"qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "llava": _llava}
