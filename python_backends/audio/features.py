"""From samples to the log-mel features of a Whisper checkpoint, by its own feature extractor.

Knows transformers' WhisperFeatureExtractor (its numpy version; torch is not needed). Refuses to know files and Triton.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_PIECE_FRAMES = 6000
# Dynamic range that Whisper keeps, in log10 of power: everything below maximum - 8 is raised to that.
_DYNAMIC_RANGE = 8.0


class LogMel:
    """Log-mel features of the checkpoint in the folder or hub repository `model`."""

    def __init__(self, model: str) -> None:
        # Imported here because transformers decides at import whether torch exists.
        from transformers import WhisperFeatureExtractor

        self._extractor: Any = WhisperFeatureExtractor.from_pretrained(model)
        self.window_frames: int = self._extractor.nb_max_frames

    def __call__(self, samples: Array) -> Array:
        """Features [mels, frames] float32 of mono samples [n] at the extractor's rate (16 kHz).

        Up to one window (30 s) of audio is padded to exactly `window_frames`; longer audio keeps its own length, as
        WhisperFeatureExtractor gives it with truncation=False.
        """
        if len(samples) <= self._extractor.n_samples:
            made = self._extractor(samples, sampling_rate=self._extractor.sampling_rate, return_tensors="np")
            return np.asarray(made["input_features"][0], np.float32)
        return self._of_long(samples)

    def _of_long(self, samples: Array) -> Array:
        """The extractor's formula piece by piece: its own numpy code takes 40 bytes of scratch per byte of samples."""
        hop, half = self._extractor.hop_length, self._extractor.n_fft // 2
        padded = np.pad(samples, half, mode="reflect")
        num_frames = len(samples) // hop
        starts = range(0, num_frames, _PIECE_FRAMES)
        pieces = [self._log_power(padded, first, min(first + _PIECE_FRAMES, num_frames)) for first in starts]
        log_mel = np.concatenate(pieces, axis=1)
        np.maximum(log_mel, log_mel.max() - _DYNAMIC_RANGE, out=log_mel)
        log_mel += 4.0
        log_mel /= 4.0
        return log_mel

    def _log_power(self, padded: Array, first: int, last: int) -> Array:
        """log10 of the mel power of frames `first` to `last`, [mels, last - first]."""
        from transformers.audio_utils import spectrogram, window_function

        extractor = self._extractor
        hop, size = extractor.hop_length, extractor.n_fft
        power = spectrogram(
            padded[first * hop : (last - 1) * hop + size],
            window_function(size, "hann"),
            frame_length=size,
            hop_length=hop,
            power=2.0,
            dither=extractor.dither,
            mel_filters=extractor.mel_filters,
            log_mel="log10",
            center=False,
        )
        return np.asarray(power, np.float32)
