"""The models asked through transformers, without any part of this project: its unmodified classes, greedily."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tests.examination.question import Question, call_text
from tests.examination.recordings import RATE, Recording, read_samples

MAX_NEW_TOKENS = 128
_CALL = ("<tool_call>", "</tool_call>")
_PLACEHOLDER = "<|image_pad|>"


class DirectChat:
    """The checkpoint in the folder `model`, in float32."""

    def __init__(self, model: Path) -> None:
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
        self._model = loaded.eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        loader: Any = AutoImageProcessor
        self._processor = loader.from_pretrained(model)

    @torch.inference_mode()
    def answer(self, question: Question) -> str:
        """The text of the answer; a tool call in the form of call_text."""
        messages = [_with_objects(message) for message in question.messages]
        prompt = self._tokenizer.apply_chat_template(
            messages, tools=list(question.tools) or None, add_generation_prompt=True, tokenize=False
        )
        features: Any = {}
        if question.pictures:
            images = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in question.pictures]
            features = self._processor(images, return_tensors="pt")
            prompt = self._filled(prompt, features["image_grid_thw"])
        ids = self._tokenizer(prompt, return_tensors="pt").input_ids
        kinds = (ids == self._model.config.image_token_id).int()
        output = self._model.generate(
            ids, **features, mm_token_type_ids=kinds, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
        )
        return _call_or_text(str(self._tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)))

    def _filled(self, prompt: str, grids: torch.Tensor) -> str:
        """One placeholder for each merged cell of each picture, as the library's own processor class does."""
        merged = self._processor.merge_size**2
        start, *rest = prompt.split(_PLACEHOLDER)
        counts = (grids.prod(-1) // merged).tolist()
        return start + "".join(_PLACEHOLDER * count + text for count, text in zip(counts, rest, strict=True))


class DirectSpeech:
    """The checkpoint in the folder `model`, in float32."""

    def __init__(self, model: Path) -> None:
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
        self._model = loaded.eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._extractor: Any = WhisperFeatureExtractor.from_pretrained(model)

    @torch.inference_mode()
    def answer(self, recording: Recording) -> str:
        """The text, or the code of the language for the task `detect`."""
        samples = read_samples(recording.file)
        features = self._extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
        if recording.task == "detect":
            token = self._model.detect_language(features)
            return str(self._tokenizer.decode(token)).strip("<|>")
        ids = self._model.generate(features, language=recording.language, task=recording.task, do_sample=False)
        return str(self._tokenizer.batch_decode(ids, skip_special_tokens=True)[0]).strip()


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI sends the arguments of a call as a JSON text; templates want the object."""
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def _call_or_text(text: str) -> str:
    begin, end = _CALL
    if begin not in text:
        return text
    try:
        call = json.loads(text.partition(begin)[2].partition(end)[0])
        return call_text(call["name"], call["arguments"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return text
