"""From an audio file's bytes to mono samples at 16 kHz, block by block.

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
    """The first audio track of a WAV, FLAC, OGG, MP3, M4A or WebM file, whole. Raises InvalidInput."""
    stream = SampleStream(data, max_duration)
    blocks = list(stream)
    return Audio(np.concatenate([np.empty(0, np.float32), *blocks]), stream.duration)


class SampleStream:
    """Iterates once over the first audio track of a file: blocks float32 [n] at SAMPLE_RATE, channels averaged.

    max_duration is in seconds; decoding stops as soon as it is passed, whatever the header says, so a small file that
    unpacks to days of silence costs no more than that. Raises InvalidInput, naming `audio`, for what is too long, has
    no audio track, or cannot be decoded.
    """

    def __init__(self, data: bytes, max_duration: float) -> None:
        if not data:
            raise InvalidInput("the audio is empty", "audio")
        self._data = data
        self._max_duration = max_duration
        self._rate = 0
        self._samples_in = 0
        self._earlier = 0.0
        self._to_float: Any = None
        self._resampler: Any = None

    def __repr__(self) -> str:
        return f"<SampleStream {self.duration:.1f} s of at most {self._max_duration:g}>"

    @property
    def duration(self) -> float:
        """Seconds taken in so far."""
        return self._earlier + (self._samples_in / self._rate if self._rate else 0.0)

    def __iter__(self) -> Iterator[Array]:
        for frame in _frames(self._data):
            if frame.sample_rate != self._rate:
                yield from self._flush()
                self._start(frame.sample_rate)
            self._samples_in += frame.samples
            if self.duration > self._max_duration:
                raise InvalidInput(f"the audio is longer than the limit of {self._max_duration:g} seconds", "audio")
            for converted in self._to_float.resample(frame):
                yield self._at_16_khz(converted.to_ndarray().mean(axis=0), last=False)
        yield from self._flush()

    def _start(self, rate: int) -> None:
        if not _MIN_RATE <= rate <= _MAX_RATE:
            raise InvalidInput(
                f"the audio has {rate} samples a second; from {_MIN_RATE} to {_MAX_RATE} are understood", "audio"
            )
        self._rate = rate
        # With neither layout nor rate given, this only turns the file's sample format into planar float.
        self._to_float = av.AudioResampler(format="fltp")
        self._resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def _flush(self) -> Iterator[Array]:
        if self._rate:
            yield self._at_16_khz(np.empty(0, np.float32), last=True)
            self._earlier, self._samples_in, self._rate = self.duration, 0, 0

    def _at_16_khz(self, mono: Array, last: bool) -> Array:
        block: Array = self._resampler.resample_chunk(mono.astype(np.float32, copy=False), last=last)
        # Floating-point files may hold anything; one value that is no number would spread over the whole window.
        return np.nan_to_num(block, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


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
