"""Recordings of a pure tone or something like a voice, in any format, made when the test runs."""

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


def voice(seconds: float, seed: int = 0) -> Array:
    """What a detection takes for a voice, [samples] at 16 kHz: harmonics of 120 Hz, louder and softer."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * (120 + seed) * number * times) / number for number in range(1, 20))
    return (buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times)) * 0.2).astype(np.float32)


def by_soundfile(samples: Array, rate: int, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(samples: Array, rate: int, kind: str, codec: str, bit_rate: int | None = None) -> bytes:
    """Stereo samples [n, 2] in a container of FFmpeg's name `kind`; bit_rate in bits a second."""
    file = BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout="stereo")
        if bit_rate:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format.name, "stereo", rate, frame_size=stream.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return file.getvalue()


def pitch(samples: Array, rate: int) -> float:
    """The strongest frequency in Hz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))
