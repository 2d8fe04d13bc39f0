"""Vision checkpoints of random weights, small enough to be made for each test run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

TEXT = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}
MIN_PIXELS, MAX_PIXELS = 56 * 56, 140 * 140


IMAGE = "<image>"
# The placeholder has id 5, the video's 6; the rest are the marks of the families that cut images into tiles.
SPECIALS = ("<s>", "</s>", "<pad>", "<user>", "<reply>", IMAGE, "<video>", "<fake_token_around_image>", "<global-img>")
SPECIALS += tuple(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3))
SPECIALS += ("<start_of_image>", "<end_of_image>")
PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def save(folder: Path, family: str, std: float | None = None) -> Path:
    """Write a checkpoint of one of FAMILIES to folder/family; `std` draws all weights so wide that texts vary."""
    torch.manual_seed(7)
    model, processor, settings = _MAKERS[family]()
    for weight in model.parameters() if std else ():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=std or 0)
    if std:
        # A placeholder that is generated would stand for no image.
        model.get_output_embeddings().weight.data[5:7] = 0
    model.float().save_pretrained(folder / family)
    processor.save_pretrained(folder / family)
    named = {"image_token": IMAGE, "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    made = _tokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", extra_special_tokens=named)
    tokenizer.save_pretrained(folder / family)
    (folder / family / "processor_config.json").write_text(json.dumps(settings))
    return folder / family


def _tokenizer() -> Tokenizer:
    """One token per byte, and some more."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    # Runs of line breaks are one token, as in Gemma's vocabulary.
    tokenizer.add_tokens([AddedToken("\n" * length, special=False, normalized=False) for length in (2, 3)])
    return tokenizer


def _qwen2_vl() -> tuple[Any, Any, dict[str, Any]]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "in_channels": 3}
    config = Qwen2VLConfig(text_config=TEXT, vision_config=vision, image_token_id=5, video_token_id=6)
    return Qwen2VLForConditionalGeneration(config), _qwen_processor(), {}


def _qwen2_5_vl() -> tuple[Any, Any, dict[str, Any]]:
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
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor(), {}


def _qwen3_vl() -> tuple[Any, Any, dict[str, Any]]:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "patch_size": 14,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {**TEXT, "head_dim": 16, "eos_token_id": 1}
    marks = {"vision_start_token_id": 3, "vision_end_token_id": 4}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=5, video_token_id=6, **marks)
    return Qwen3VLForConditionalGeneration(config), _qwen_processor(), {}


_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
_CLIP = {"model_type": "clip_vision_model", "projection_dim": 32, **_TOWER}
_PLAIN_TEXT = {key: value for key, value in TEXT.items() if key != "rope_parameters"}
_LLAMA = {"model_type": "llama", **_PLAIN_TEXT}
_SQUARE: dict[str, Any] = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
_PATCHES = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}


def _llava() -> tuple[Any, Any, dict[str, Any]]:
    config = LlavaConfig(text_config=_LLAMA, vision_config=_CLIP, image_token_index=5)
    return LlavaForConditionalGeneration(config), CLIPImageProcessorPil(**_SQUARE), _PATCHES


def _llava_next() -> tuple[Any, Any, dict[str, Any]]:
    config = LlavaNextConfig(
        text_config=_LLAMA, vision_config=_CLIP, image_token_index=5, image_grid_pinpoints=PINPOINTS
    )
    processor = LlavaNextImageProcessorPil(**_SQUARE, image_grid_pinpoints=PINPOINTS)
    return LlavaNextForConditionalGeneration(config), processor, _PATCHES


def _llava_onevision() -> tuple[Any, Any, dict[str, Any]]:
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **_PLAIN_TEXT},
        vision_config={"model_type": "siglip_vision_model", **_TOWER},
        image_token_index=5,
        video_token_index=6,
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaOnevisionImageProcessorPil(size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS)
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "image_token": IMAGE}
    return LlavaOnevisionForConditionalGeneration(config), processor, settings


_TILES: dict[str, Any] = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
_TILED: dict[str, Any] = {"text_config": _LLAMA, "vision_config": _TOWER, "image_token_id": 5, "scale_factor": 2}


def _idefics3() -> tuple[Any, Any, dict[str, Any]]:
    model = Idefics3ForConditionalGeneration(Idefics3Config(**_TILED, pad_token_id=2))
    return model, Idefics3ImageProcessorPil(**_TILES), {"image_seq_len": 4}


def _smolvlm() -> tuple[Any, Any, dict[str, Any]]:
    model = SmolVLMForConditionalGeneration(SmolVLMConfig(**_TILED, pad_token_id=2))
    return model, SmolVLMImageProcessorPil(**_TILES), {"image_seq_len": 4}


def _gemma3() -> tuple[Any, Any, dict[str, Any]]:
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {**_PLAIN_TEXT, "head_dim": 16, "sliding_window": 7, "num_hidden_layers": 4, "layer_types": kinds}
    config = Gemma3Config(
        text_config={**text, "eos_token_id": 1, "pad_token_id": 2, "tie_word_embeddings": False},
        vision_config=_TOWER,
        image_token_index=5,
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
    )
    processor = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return Gemma3ForConditionalGeneration(config), processor, {"image_seq_length": 4}


def _mllama() -> tuple[Any, Any, dict[str, Any]]:
    vision = {**_TOWER, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2}
    vision |= {"vision_output_dim": 64, "intermediate_layers_indices": [0]}
    text = {**_PLAIN_TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1], "eos_token_id": 1, "pad_token_id": 2}
    config = MllamaConfig(text_config=text, vision_config=vision, image_token_index=5)
    model = MllamaForConditionalGeneration(config)
    open_gates(model)
    return model, MllamaImageProcessorPil(size={"height": 56, "width": 56}), {}


def open_gates(model: Any) -> None:
    """A new model lets nothing of an image through."""
    for name, weight in model.named_parameters():
        if name.rsplit("gate", 1)[-1] in ("", "_attn", "_ffn") and weight.numel() == 1:
            weight.data.fill_(0.8)


def _qwen_processor() -> Any:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS})


_MAKERS = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
    "mllama": _mllama,
}
FAMILIES = tuple(_MAKERS)
# What a text has in place of an image until the processor puts more there.
MARKS = {family: "<start_of_image>" if family == "gemma3" else IMAGE for family in FAMILIES}
