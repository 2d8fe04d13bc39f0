"""The `audio_frontend` entry: an audio file in, log-mel features out. A process without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from python_backends.audio.decode_pool import DecodePool
from python_backends.audio.decode_worker import EndOfFile, FileToDecode, LogMelPiece
from python_backends.audio.features import LogMel
from python_backends.options import checkpoint_path, read_options
from python_backends.transformers_setup import keep_torch_out
from python_backends.triton_io import Array, Inputs, answer_each, entry_folder, entry_parameters, load_errors_named


@dataclass(frozen=True)
class AudioFrontendOptions:
    """Parameters of the `audio_frontend` entry, see docs/contracts.md; max_duration is in seconds."""

    model: str
    max_duration: float = 3600.0

    def __post_init__(self) -> None:
        if not self.max_duration > 0:
            raise ValueError(f"parameter 'max_duration' must be greater than 0, got {self.max_duration}")


class AudioFrontend:
    """Triton's Python model for `audio_frontend`. A recording is decoded whole."""

    def initialize(self, args: Mapping[str, str]) -> None:
        with load_errors_named(args["model_name"]):
            folder = entry_folder(args)
            self._options = read_options(AudioFrontendOptions, entry_parameters(args), folder)
            keep_torch_out()
            self._log_mel = LogMel.of_checkpoint(checkpoint_path(folder, self._options.model))
            self._pool = DecodePool(self._log_mel, num_workers=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        return answer_each(requests, self._answer)

    def finalize(self) -> None:
        self._pool.close()

    def _answer(self, inputs: Inputs) -> dict[str, Array]:
        data = bytes(inputs.need("audio").reshape(-1)[0])
        file = self._pool.open(FileToDecode(data, self._options.max_duration, cut=None))
        try:
            piece, end = file.next(), file.next()
        finally:
            file.close()
        assert isinstance(piece, LogMelPiece)
        assert isinstance(end, EndOfFile)
        return {
            "input_features": self._log_mel.normalized(piece.log_power, float(piece.log_power.max())),
            "duration": np.array([end.duration], np.float32),
        }
