"""Asks an exported model, through the library's own classes and nothing of the training code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

Message = dict[str, Any]
PAD = "<|image_pad|>"


def user(text: str, pictures: int = 0, after: bool = False) -> Message:
    """A user message with its pictures before (or after) the text."""
    images = [{"type": "image"}] * pictures
    words = [{"type": "text", "text": text}]
    return {"role": "user", "content": words + images if after else images + words}


class Runner:
    """A loaded folder; `answer` is greedy."""

    def __init__(self, folder: Path) -> None:
        # The library types its own `generate` in a way that rejects the model; hence Any.
        self.model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        load: Any = AutoImageProcessor.from_pretrained
        self.processor = load(folder)

    def inputs(
        self, messages: list[Message], pictures: list[Image.Image], tools: list[Message] | None = None
    ) -> dict[str, Any]:
        """Model inputs; each picture's pad token is repeated once per merged cell."""
        render: Any = self.tokenizer.apply_chat_template
        text = str(render(messages, tools=tools, tokenize=False, add_generation_prompt=True))
        seen: dict[str, Any] = {}
        if pictures:
            seen = dict(self.processor(pictures, return_tensors="pt"))
            # A stand-in word, so that `replace` does not meet its own output.
            for grid in seen["image_grid_thw"]:
                text = text.replace(PAD, "<cell>" * (int(grid.prod()) // 4), 1)
        ids = self.tokenizer(text.replace("<cell>", PAD), return_tensors="pt").input_ids
        # Without the type ids positions silently become one-dimensional.
        types = (ids == self.model.config.image_token_id).long()
        seen |= {"attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
        return {"input_ids": ids} | seen

    @torch.inference_mode()
    def answer(self, messages: list[Message], pictures: list[Image.Image], tools: list[Message] | None = None) -> str:
        """The model's reply to a conversation."""
        inputs = self.inputs(messages, pictures, tools)
        # State of the last call, which the library would reuse.
        self.model.model.rope_deltas = None
        output = self.model.generate(**inputs)
        new = output[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True))
