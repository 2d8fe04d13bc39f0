"""From samples to the log-mel features of a Whisper checkpoint: the numbers of its own feature extractor.

Knows the constants of transformers' WhisperFeatureExtractor. Its formula stands here once more, because the library's
numpy code holds 40 bytes for each byte of samples, and because a recording that is decoded piece by piece has no known
maximum to normalize by. Refuses to know files and Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_PIECE_FRAMES = 2000
# Dynamic range that Whisper keeps, in log10 of power: everything below maximum - 8 is raised to that.
_DYNAMIC_RANGE = 8.0
# log10 of the power that stands for silence.
FLOOR = -10.0


@dataclass(frozen=True)
class LogMel:
    """mel_filters [n_fft / 2 + 1, mels]; n_fft, hop_length and window_samples (30 s) in samples at 16 kHz."""

    mel_filters: Array
    n_fft: int
    hop_length: int
    window_samples: int

    @classmethod
    def of_checkpoint(cls, model: str) -> LogMel:
        """Of the checkpoint in the folder or hub repository `model`. Raises ValueError where samples are dithered."""
        # Imported here because transformers decides at import whether torch exists.
        from transformers import WhisperFeatureExtractor

        extractor: Any = WhisperFeatureExtractor.from_pretrained(model)
        if extractor.dither:
            raise ValueError(f"{model} adds noise (dither {extractor.dither}) to its samples, which is not done here")
        filters = np.asarray(extractor.mel_filters, np.float64)
        return cls(filters, extractor.n_fft, extractor.hop_length, extractor.n_samples)

    @property
    def window_frames(self) -> int:
        return self.window_samples // self.hop_length

    def __call__(self, samples: Array) -> Array:
        """Features [mels, frames] float32 of mono samples [n] at 16 kHz.

        Up to one window (30 s) of audio is padded to exactly `window_frames`; longer audio keeps its own length, as
        WhisperFeatureExtractor gives it with truncation=False.
        """
        power = self.log_power(samples)
        return self.normalized(power, float(power.max()))

    def log_power(self, samples: Array) -> Array:
        """log10 of mel power [mels, frames] float32, of as many frames as the samples reach into."""
        if len(samples) < self.window_samples:
            # Behind the sound the extractor sees zeros up to the end of the window.
            samples = np.pad(samples, (0, min(self.n_fft, self.window_samples - len(samples))))
        half = self.n_fft // 2
        padded = np.pad(samples, half, mode="reflect")
        num_frames = len(samples) // self.hop_length
        window = np.hanning(self.n_fft + 1)[:-1]
        mels = np.empty((self.mel_filters.shape[1], num_frames), np.float32)
        for first in range(0, num_frames, _PIECE_FRAMES):
            last = min(first + _PIECE_FRAMES, num_frames)
            mels[:, first:last] = self._mels(padded, window, first, last)
        return mels

    def normalized(self, log_power: Array, peak: float) -> Array:
        """Features of log power [mels, frames], filled up with silence to a window; `peak` is the loudest power."""
        missing = max(0, self.window_frames - log_power.shape[1])
        features = np.pad(log_power, ((0, 0), (0, missing)), constant_values=FLOOR)
        np.maximum(features, max(peak, FLOOR) - _DYNAMIC_RANGE, out=features)
        features += 4.0
        features /= 4.0
        return features

    def _mels(self, padded: Array, window: Array, first: int, last: int) -> Array:
        """log10 of the mel power of frames `first` to `last`, [mels, last - first]."""
        part = padded[first * self.hop_length : (last - 1) * self.hop_length + self.n_fft].astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(part, self.n_fft)[:: self.hop_length]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        mels: Array = np.log10(np.maximum(power @ self.mel_filters, 10**FLOOR)).T
        return mels
