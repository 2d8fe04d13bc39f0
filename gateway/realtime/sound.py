"""The audio of a realtime session: formats, a bounded buffer, and WAV files made of it. Knows no events."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Voices are detected at this rate; all formats can be brought to it by leaving samples out.
DETECTION_RATE = 8000
_MU_LAW, _A_LAW, _PCM = 7, 6, 1


@dataclass(frozen=True)
class SoundFormat:
    """`name` is OpenAI's; `tag` is that of a WAV header; one channel of `width` bytes per sample."""

    name: str
    rate: int
    tag: int
    width: int

    @property
    def bytes_per_ms(self) -> int:
        return self.rate * self.width // 1000

    def wav(self, data: bytes) -> bytes:
        """A WAV file of the samples in `data`."""
        byte_rate = self.rate * self.width
        layout = (16, self.tag, 1, self.rate, byte_rate, self.width, 8 * self.width)
        header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", *layout)
        return header + struct.pack("<4sI", b"data", len(data)) + data

    def for_detection(self, data: bytes) -> Array:
        """int16 samples at DETECTION_RATE of whole milliseconds of `data`."""
        if self.tag == _PCM:
            samples = np.frombuffer(data, "<i2").astype(np.int32)
            lower: Array = samples.reshape(-1, self.rate // DETECTION_RATE).mean(axis=1).astype("<i2")
            return lower
        table: Array = _EXPANDED[self.tag]
        return table[np.frombuffer(data, np.uint8)]


def _mu_law() -> Array:
    """ITU-T G.711, table 2: 8 bits to 16."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -size, size).astype("<i2")


def _a_law() -> Array:
    """ITU-T G.711, table 1: 8 bits to 16."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, size = (code & 0x70) >> 4, ((code & 0x0F) << 4) + 8
    size = np.where(exponent > 0, size + 0x100 << np.maximum(exponent - 1, 0), size)
    return np.where(code & 0x80, size, -size).astype("<i2")


_EXPANDED = {_MU_LAW: _mu_law(), _A_LAW: _a_law()}

PCM = SoundFormat("pcm16", 24_000, _PCM, 2)
# Names of the two generations of the API.
FORMATS = {
    "pcm16": PCM,
    "audio/pcm": PCM,
    "g711_ulaw": (MU_LAW := SoundFormat("g711_ulaw", 8000, _MU_LAW, 1)),
    "audio/pcmu": MU_LAW,
    "g711_alaw": (A_LAW := SoundFormat("g711_alaw", 8000, _A_LAW, 1)),
    "audio/pcma": A_LAW,
}


class SoundBuffer:
    """What was said and not yet committed, at most `max_s` seconds; `start_ms` is where it begins in the session."""

    def __init__(self, form: SoundFormat, max_s: float, start_ms: int = 0) -> None:
        self.form = form
        self.start_ms = start_ms
        self._max_bytes = round(max_s * 1000) * form.bytes_per_ms
        self._data = bytearray()

    def __repr__(self) -> str:
        return f"<SoundBuffer {self.duration_ms} ms from {self.start_ms} ms on>"

    @property
    def duration_ms(self) -> int:
        return len(self._data) // self.form.bytes_per_ms

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.duration_ms

    def fits(self, data: bytes) -> bool:
        return len(self._data) + len(data) <= self._max_bytes

    def append(self, data: bytes) -> None:
        self._data += data

    def since(self, moment_ms: int) -> bytes:
        """Whole milliseconds from a moment of the session on."""
        whole = self.duration_ms * self.form.bytes_per_ms
        return bytes(self._data[max(0, moment_ms - self.start_ms) * self.form.bytes_per_ms : whole])

    def forget_before(self, moment_ms: int) -> None:
        gone_ms = min(max(0, moment_ms - self.start_ms), self.duration_ms)
        del self._data[: gone_ms * self.form.bytes_per_ms]
        self.start_ms += gone_ms

    def wav(self) -> bytes:
        return self.form.wav(self.since(self.start_ms))

    def clear(self) -> None:
        self.forget_before(self.end_ms)
