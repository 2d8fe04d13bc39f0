"""Checkpoints of several families with random weights, and what `generate` makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.modeling_outputs import BaseModelOutputWithPooling

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
_HEADS: dict[str, Any] = {**_TEXT, "head_dim": HEAD_DIM}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": MAX_LEN,
}
# The first layer looks back 7 tokens, the second all the way, and they count positions differently.
_LOCAL_GLOBAL: dict[str, Any] = {
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    },
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DEEPSEEK: dict[str, Any] = {
    **_TEXT,
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_IMAGE_TOKENS: dict[str, Any] = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_VISION: dict[str, Any] = {"depth": 1, "num_heads": 2, "patch_size": 4, "in_channels": 3, "temporal_patch_size": 2}
_CLIP: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def _qwen2_vl() -> Any:
    vision = {**_VISION, "embed_dim": 16, "hidden_size": HIDDEN, "mlp_ratio": 2}
    text = {**_TEXT, "rope_parameters": _MROPE}
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(text_config=text, vision_config=vision, **_IMAGE_TOKENS))


def _qwen2_5_vl() -> Any:
    vision = {**_VISION, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": HIDDEN}
    vision |= {"fullatt_block_indexes": [0], "window_size": 16}
    text = {**_TEXT, "rope_parameters": _MROPE}
    config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_IMAGE_TOKENS)
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> Any:
    vision = {**_VISION, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": HIDDEN, "depth": 2}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    text = {**_HEADS, "rope_parameters": {**_MROPE, "mrope_interleaved": True}}
    return hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(text_config=text, vision_config=vision, **_IMAGE_TOKENS))


def _llava() -> Any:
    vision = {**_CLIP, "model_type": "clip_vision_model"}
    text = {**_TEXT, "model_type": "llama"}
    config = hf.LlavaConfig(text_config=text, vision_config=vision, image_token_id=IMAGE)
    return hf.LlavaForConditionalGeneration(config)


def _llava_onevision() -> Any:
    vision = {**_CLIP, "model_type": "siglip_vision_model"}
    text = {**_TEXT, "model_type": "qwen2"}
    config = hf.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[8, 8]],
    )
    return hf.LlavaOnevisionForConditionalGeneration(config)


def _smolvlm() -> Any:
    text = {**_TEXT, "model_type": "llama"}
    config = hf.SmolVLMConfig(text_config=text, vision_config=_CLIP, image_token_id=IMAGE, scale_factor=1)
    return hf.SmolVLMForConditionalGeneration(config)


def _gemma3() -> Any:
    text = {**_HEADS, **_LOCAL_GLOBAL}
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=_CLIP,
        image_token_id=IMAGE,
        mm_tokens_per_image=4,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    return hf.Gemma3ForConditionalGeneration(config)


_CAUSAL: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "deepseek_v3": (hf.DeepseekV3ForCausalLM, hf.DeepseekV3Config, _DEEPSEEK),
    # Scores and logits are capped; low caps, so that they matter.
    "gemma2": (
        hf.Gemma2ForCausalLM,
        hf.Gemma2Config,
        {**_HEADS, "sliding_window": 7, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, {**_HEADS, **_LOCAL_GLOBAL}),
    "gpt_oss": (
        hf.GptOssForCausalLM,
        hf.GptOssConfig,
        {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7},
    ),
    "granite": (hf.GraniteForCausalLM, hf.GraniteConfig, {**_TEXT, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, _TEXT),
    "llama3": (hf.LlamaForCausalLM, hf.LlamaConfig, {**_TEXT, "rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "mistral": (hf.MistralForCausalLM, hf.MistralConfig, {**_TEXT, "sliding_window": 7}),
    "mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig, {**_TEXT, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmo2": (hf.Olmo2ForCausalLM, hf.Olmo2Config, _TEXT),
    "phi": (hf.PhiForCausalLM, hf.PhiConfig, _TEXT),
    "phi3": (hf.Phi3ForCausalLM, hf.Phi3Config, {**_TEXT, "sliding_window": 40}),
    "phi3_longrope": (hf.Phi3ForCausalLM, hf.Phi3Config, {**_TEXT, "rope_parameters": _LONGROPE}),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config, _TEXT),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config, _HEADS),
    "qwen3_moe": (hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, {**_HEADS, **_EXPERTS, "num_experts": 4}),
}


def _causal(name: str) -> Callable[[], Any]:
    model, config, values = _CAUSAL[name]
    return lambda: model(config(**values))


TEXT_FAMILIES: dict[str, Callable[[], Any]] = {name: _causal(name) for name in _CAUSAL}
# Their own towers make the features; of the others the features are drawn.
_WITH_GRIDS: dict[str, Callable[[], Any]] = {"qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}
VISION_FAMILIES: dict[str, Callable[[], Any]] = {
    **_WITH_GRIDS,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
}
FAMILIES = {**TEXT_FAMILIES, **VISION_FAMILIES}
# What no other family has is tried on every run, the rest with the slow tests.
_SLOW = frozenset(
    {"granite", "llama", "llava_onevision", "mixtral", "olmo2", "phi", "phi3", "phi3_longrope", "qwen2_vl"}
)


def parameters(families: dict[str, Callable[[], Any]]) -> list[Any]:
    """Names for `parametrize`."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else []) for name in sorted(families)]


@dataclass(frozen=True)
class Picture:
    """pixel_values [patches, values per patch] and its grid, as an image processor makes them."""

    pixels: torch.Tensor
    grid: tuple[int, int, int]

    @property
    def num_tokens(self) -> int:
        return self.grid[1] * self.grid[2] // 4

    @property
    def drawn_features(self) -> torch.Tensor:
        """[num_tokens, hidden]: what a tower could have made of it."""
        return self.pixels[: self.num_tokens, :HIDDEN] * 0.3


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
        if name in VISION_FAMILIES:
            # A placeholder that is generated would be one too many in the next turn's prompt.
            model.get_output_embeddings().weight.data[IMAGE] = 0
        model.save_pretrained(folder)
        self.model: Any = type(model).from_pretrained(folder, dtype=torch.float32).eval()
        self.sees = name in VISION_FAMILIES
        self.has_grids = name in _WITH_GRIDS
        self.generate = cache(self._generate)

    @property
    def feature_size(self) -> int:
        return self._features(picture(1)).shape[1] if self.sees else HIDDEN

    @property
    def bytes_per_token(self) -> int:
        """Of the cache, float32."""
        wide = self.name == "deepseek_v3"
        return (
            LAYERS * 4 * (12 + 8) * 4 if wide else LAYERS * self.model.config.get_text_config().num_key_value_heads * 64
        )

    def _generate(self, prompt: Prompt, num_tokens: int) -> list[int]:
        """Greedy tokens by `generate`, the end token included."""
        ids = torch.tensor([prompt.ids])
        extra = self._pictures(prompt) if prompt.pictures else {}
        if self.has_grids:
            extra["mm_token_type_ids"] = (ids == IMAGE).int()
        if self.name == "gemma3":
            extra["token_type_ids"] = (ids == IMAGE).int()
        with torch.inference_mode():
            output = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, **extra
            )
        return list(output[0, ids.shape[1] :].tolist())

    def _pictures(self, prompt: Prompt) -> dict[str, Any]:
        if self.has_grids:
            pixels = torch.cat([each.pixels for each in prompt.pictures])
            return {"pixel_values": pixels, "image_grid_thw": torch.tensor([each.grid for each in prompt.pictures])}
        features: Any = [each.drawn_features for each in prompt.pictures]
        if self.name == "gemma3":
            features = torch.cat(features)[None]
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=features)}}

    def spans(self, prompt: Prompt) -> tuple[ImageSpan, ...]:
        """The prompt's images with the features of the model's own vision tower."""
        starts = [place + 1 for place, token in enumerate(prompt.ids) if token == VISION_START]
        return tuple(self.span(start, each) for start, each in zip(starts, prompt.pictures, strict=True))

    def span(self, start: int, each: Picture) -> ImageSpan:
        return ImageSpan(start, np.array(self._features(each)), each.grid, each.pixels.numpy().tobytes()[:64])

    def _features(self, each: Picture) -> torch.Tensor:
        """[num_tokens, hidden], and beside them those of each further layer that gets its own (DeepStack)."""
        if not self.has_grids:
            return each.drawn_features
        with torch.inference_mode():
            found = self.model.get_image_features(each.pixels, torch.tensor([each.grid]))
        deep = getattr(found, "deepstack_features", None) or []
        return torch.cat([found.pooler_output[0], *(level[0] for level in deep)], dim=-1)
