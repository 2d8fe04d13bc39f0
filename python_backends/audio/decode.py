"""From an audio file's bytes to mono samples at 16 kHz.

Knows containers, codecs, channels and rates (FFmpeg by PyAV, resampling by soxr). Refuses to know models and Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import av
import numpy as np
import soxr
from av.audio.frame import AudioFrame

from python_backends.errors import InvalidInput

Array = np.ndarray[Any, Any]

SAMPLE_RATE = 16_000
_MIN_RATE, _MAX_RATE = 1_000, 768_000

NAMES = "WAV, FLAC, OGG, MP3, M4A or WebM"
# Only formats that hold their own samples: playlists (HLS, concat) would make FFmpeg read other files and addresses.
DEMUXERS = ("wav", "flac", "ogg", "mp3", "mov", "matroska", "aac", "aiff", "w64", "caf", "amr")


@dataclass(frozen=True)
class Audio:
    """samples float32 [n] in -1..1 at SAMPLE_RATE; duration in seconds, counted before resampling."""

    samples: Array
    duration: float


def decode_audio(data: bytes, max_duration: float) -> Audio:
    """The first audio track of a WAV, FLAC, OGG, MP3, M4A or WebM file, channels averaged.

    max_duration is in seconds; decoding stops as soon as it is passed, whatever the header says. Raises InvalidInput,
    naming `audio`, for what is too long, has no audio track, or cannot be decoded.
    """
    if not data:
        raise InvalidInput("the audio is empty", "audio")
    mono = _MonoResampler()
    for frame in _frames(data):
        mono.add(frame)
        if mono.duration > max_duration:
            raise InvalidInput(f"the audio is longer than the limit of {max_duration:g} seconds", "audio")
    return Audio(mono.samples(), mono.duration)


def _frames(data: bytes) -> Iterator[AudioFrame]:
    """Decoded frames; a broken packet is skipped as FFmpeg does, unless no packet at all decodes."""
    decoded, broken = 0, ""
    options = {"format_whitelist": ",".join(DEMUXERS)}
    try:
        with av.open(BytesIO(data), mode="r", options=options, metadata_errors="ignore") as file:
            if not file.streams.audio:
                raise InvalidInput("the file has no audio track", "audio")
            for packet in file.demux(file.streams.audio[0]):
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    broken = str(error.strerror)
                    continue
                decoded += len(frames)
                yield from frames
    except av.FFmpegError as error:
        broken = str(error.strerror)
    if broken and not decoded:
        raise InvalidInput(f"the audio is no {NAMES} file that can be decoded: {broken}", "audio")


class _MonoResampler:
    """Averages channels and resamples chunk by chunk, so that only the result is ever held whole."""

    def __init__(self) -> None:
        self._rate = 0
        self._samples_in = 0
        self._earlier = 0.0
        self._to_float: Any = None
        self._stream: Any = None
        self._chunks: list[Array] = []

    @property
    def duration(self) -> float:
        """Seconds taken in so far."""
        return self._earlier + (self._samples_in / self._rate if self._rate else 0.0)

    def add(self, frame: AudioFrame) -> None:
        if frame.sample_rate != self._rate:
            self._flush()
            self._start(frame.sample_rate)
        self._samples_in += frame.samples
        for converted in self._to_float.resample(frame):
            self._take(converted.to_ndarray().mean(axis=0), last=False)

    def samples(self) -> Array:
        self._flush()
        return np.concatenate([np.empty(0, np.float32), *self._chunks])

    def _start(self, rate: int) -> None:
        if not _MIN_RATE <= rate <= _MAX_RATE:
            raise InvalidInput(
                f"the audio has {rate} samples a second; from {_MIN_RATE} to {_MAX_RATE} are understood", "audio"
            )
        self._rate = rate
        # With neither layout nor rate given, this only turns the file's sample format into planar float.
        self._to_float = av.AudioResampler(format="fltp")
        self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def _flush(self) -> None:
        if self._rate:
            self._take(np.empty(0, np.float32), last=True)
            self._earlier, self._samples_in, self._rate = self.duration, 0, 0

    def _take(self, mono: Array, last: bool) -> None:
        self._chunks.append(self._stream.resample_chunk(mono.astype(np.float32, copy=False), last=last))
