"""Whisper's log-mel spectrogram at the clip's own length, kept in one byte per value.

Same numbers as ``WhisperFeatureExtractor``, without its padding to 30 s: 80 mels, 100 frames per
second, (log10 + 4) / 4 with everything more than 8 below the loudest value clamped.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

MELS = 80
HOP = 160
FRAMES_PER_POSITION = 2
POSITION_SECONDS = 0.02

_FFT = 400
_FLOOR = -1.5
_SPREAD = 3.5

_extractor = WhisperFeatureExtractor(feature_size=MELS)  # type: ignore[no-untyped-call]
_filters = torch.from_numpy(_extractor.mel_filters).float()
_window = torch.hann_window(_FFT)


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``[frames, 80]`` with an even number of frames, quantised for storage."""
    even = -len(samples) % (HOP * FRAMES_PER_POSITION)
    # The extractor sees zeros after the clip, so the last frames must see them here as well.
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (0, even + _FFT))
    spectrum = torch.stft(padded, _FFT, HOP, window=_window, return_complex=True)
    frames = (len(samples) + even) // HOP
    power = spectrum[:, :frames].abs() ** 2
    logs = torch.clamp(_filters.T @ power, min=1e-10).log10()
    values = (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0
    return quantised(values.T.numpy())


def quantised(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    scaled = (values - _FLOOR) * (255.0 / _SPREAD)
    stored: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return stored


def restored(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    return stored.astype(np.float32) * np.float32(_SPREAD / 255.0) + np.float32(_FLOOR)


def padding_value(loudest: float) -> float:
    """What digital silence becomes in a window whose largest value is ``loudest``."""
    return max(loudest - 2.0, _FLOOR)
