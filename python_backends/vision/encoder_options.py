"""The parameters of the `vision_encoder` entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VisionEncoderOptions:
    """Parameters of the `vision_encoder` entry, see docs/contracts.md."""

    model: str
    engine: Literal["torch", "tensorrt"] = "torch"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        if self.engine == "tensorrt":
            raise ValueError(
                "parameter 'engine' is 'tensorrt': the encoder runs on torch only, on the GPU where there is one"
            )
