"""The parameters of the `whisper` entry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WhisperOptions:
    """Parameters of the `whisper` entry, see docs/contracts.md; max_duration and chunk_length_s are in seconds."""

    model: str
    engine: Literal["torch", "tensorrt_llm"] = "torch"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_batch: int = 8
    max_waiting: int = 64
    max_duration: float = 4 * 3600.0
    chunk_length_s: float = 30.0
    decode_workers: int = 2
    alignment_heads: str = ""

    def __post_init__(self) -> None:
        if self.engine == "tensorrt_llm":
            raise ValueError(
                "parameter 'engine' is 'tensorrt_llm': the LLM API of TensorRT-LLM 1.2.1 has no Whisper, and that of "
                "the line after it takes sound instead of windows, and tells no times of words; use torch"
            )
        for name in ("max_batch", "max_waiting", "decode_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"parameter {name!r} must be at least 1, got {getattr(self, name)}")
        for name in ("max_duration", "chunk_length_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"parameter {name!r} must be greater than 0, got {getattr(self, name)}")
        self.heads  # noqa: B018

    @property
    def heads(self) -> list[tuple[int, int]]:
        """`alignment_heads`, a JSON list of [layer, head]; empty for the checkpoint's own. Raises ValueError."""
        try:
            return [(int(layer), int(head)) for layer, head in json.loads(self.alignment_heads or "[]")]
        except (TypeError, ValueError) as error:
            text = f"parameter 'alignment_heads' must be a JSON list of [layer, head], got {self.alignment_heads!r}"
            raise ValueError(text) from error
