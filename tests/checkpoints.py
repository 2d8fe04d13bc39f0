"""Small checkpoints with random weights, and what transformers itself makes of them: the oracle of exactness."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

ROOT = Path(__file__).resolve().parent.parent
DEMO_VL, DEMO_WHISPER = ROOT / "demo_models" / "demo-vl", ROOT / "demo_models" / "demo-whisper"
_NOT_WEIGHTS = ("*.json", "*.jinja")


def random_vl(folder: Path) -> Path:
    """The demo model's architecture and tokenizer with random weights that make greedy text vary."""
    torch.manual_seed(11)
    config = AutoConfig.from_pretrained(DEMO_VL)
    config.text_config.initializer_range = config.vision_config.initializer_range = 0.15
    model = Qwen2_5_VLForConditionalGeneration(config)
    return _saved(model, DEMO_VL, folder)


def random_whisper(folder: Path) -> Path:
    torch.manual_seed(12)
    config = AutoConfig.from_pretrained(DEMO_WHISPER)
    config.init_std = 0.3
    saved = _saved(WhisperForConditionalGeneration(config), DEMO_WHISPER, folder)
    # Random weights never say that they are done, and after hundreds of tokens the last bit of a log-mel decides.
    generation = json.loads((saved / "generation_config.json").read_text())
    (saved / "generation_config.json").write_text(json.dumps({**generation, "max_length": 48}))
    return saved


def vl_text(folder: Path, messages: list[dict[str, Any]], pictures: list[bytes], max_new_tokens: int) -> str:
    """Greedy text of a conversation by `generate`, float32; `messages` hold one image part per picture."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    features: Any = {}
    if pictures:
        images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
        features = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
        start, *rest = prompt.split("<|image_pad|>")
        counts = (features["image_grid_thw"].prod(-1) // 4).tolist()
        prompt = start + "".join("<|image_pad|>" * n + text for n, text in zip(counts, rest, strict=True))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    kinds = (ids == model.config.image_token_id).int()
    with torch.inference_mode():
        output = model.generate(
            ids, **features, mm_token_type_ids=kinds, max_new_tokens=max_new_tokens, do_sample=False
        )
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def whisper_text(folder: Path, samples: np.ndarray[Any, Any]) -> str:
    """Greedy English text of 16 kHz mono samples by `generate`, float32."""
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        # Random weights say timestamps unasked, and would be taken through the recording again for them.
        ids = model.generate(
            features, language="en", task="transcribe", do_sample=False, force_unique_generate_call=True
        )
    return str(AutoTokenizer.from_pretrained(folder).batch_decode(ids, skip_special_tokens=True)[0]).strip()


def _saved(model: Any, like: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    for pattern in _NOT_WEIGHTS:
        for file in like.glob(pattern):
            if file.name != "config.json":
                shutil.copy(file, folder / file.name)
    return folder
