"""Recordings of a pure tone, in any format, made when the test runs."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import av
import numpy as np
import soundfile

Array = np.ndarray[Any, Any]
TONE_HZ = 440.0


def tone(seconds: float, rate: int, channels: int = 1) -> Array:
    """[samples, channels] float32, amplitude 0.5."""
    times = np.arange(round(seconds * rate)) / rate
    wave = (0.5 * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.float32)
    return np.stack([wave] * channels, axis=1)


def by_soundfile(samples: Array, rate: int, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(samples: Array, rate: int, kind: str, codec: str) -> bytes:
    """Stereo samples [n, 2] in a container of FFmpeg's name `kind`."""
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format.name, "stereo", rate, frame_size=stream.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return file.getvalue()


def pitch(samples: Array, rate: int) -> float:
    """The strongest frequency in Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))
