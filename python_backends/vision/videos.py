"""From the bytes of a video file to a few of its frames, upright and in RGB, evenly spread over its length.

Knows containers and codecs (FFmpeg by PyAV). Refuses to know models, pixel values and Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import av
from av.video.frame import VideoFrame
from PIL import Image

from python_backends.errors import InvalidInput
from python_backends.vision.images import MAX_PIXELS

NAMES = "MP4, MOV, WebM, MKV or AVI"
# Only formats that hold their own frames: playlists would make FFmpeg read other files and addresses.
DEMUXERS = ("mov", "matroska", "avi")
# All frames up to the last that is taken are decoded: about a minute of work for small ones.
MAX_FRAMES = 36_000
_MIN_SAMPLED = 4


@dataclass(frozen=True)
class Video:
    """A file, the frames to take from it, and its frames per second."""

    data: bytes
    indices: tuple[int, ...]
    num_frames: int
    fps: float

    @property
    def sampled_fps(self) -> float:
        return len(self.indices) / self.num_frames * self.fps

    def times(self, patch: int) -> list[float]:
        """The middle of each `patch` frames that are seen together, in seconds; the last frame fills up the last."""
        filled = [*self.indices, *[self.indices[-1]] * (-len(self.indices) % patch)]
        firsts, lasts = filled[::patch], filled[patch - 1 :: patch]
        return [(first + last) / 2 / self.fps for first, last in zip(firsts, lasts, strict=True)]

    def frames(self) -> Iterator[Image.Image]:
        """The frames at `indices`, decoded one at a time; a broken end gives fewer. Raises InvalidInput for none."""
        wanted, found = set(self.indices), 0
        for index, frame in enumerate(_frames(self.data)):
            if index in wanted:
                found += 1
                yield _upright(frame)
            if index >= self.indices[-1]:
                break
        if not found:
            raise InvalidInput("no frame of the video can be decoded", "video")


def sample_video(data: bytes, fps: float, max_frames: int, patch: int = 2) -> Video:
    """Chooses frames as transformers' Qwen2VLVideoProcessor does: `fps` a second, whole patches, at most `max_frames`.

    Raises InvalidInput, naming `video`, for what is no video of the formats NAMES, or is too long.
    """
    if not data:
        raise InvalidInput("the video is empty", "video")
    try:
        with _opened(data) as file:
            stream = file.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            total = sum(packet.size > 0 for packet in file.demux(stream))
    except av.FFmpegError as error:
        raise _unreadable(error) from error
    if not total or not rate:
        raise InvalidInput("the video has no frames", "video")
    if total > MAX_FRAMES:
        raise InvalidInput(f"the video has {total} frames, more than the limit of {MAX_FRAMES}", "video")
    wanted = min(max(total / rate * fps, _MIN_SAMPLED), max_frames, total)
    num_sampled = max(int(wanted) // patch * patch, 1)
    indices = tuple(number * total // num_sampled for number in range(num_sampled))
    return Video(data, indices, total, rate)


def _opened(data: bytes) -> Any:
    options = {"format_whitelist": ",".join(DEMUXERS)}
    file = av.open(BytesIO(data), mode="r", options=options, metadata_errors="ignore")
    if not file.streams.video:
        file.close()
        raise InvalidInput("the file has no video track", "video")
    return file


def _frames(data: bytes) -> Iterator[VideoFrame]:
    try:
        with _opened(data) as file:
            for frame in file.decode(file.streams.video[0]):
                if frame.width * frame.height > MAX_PIXELS:
                    size = f"{frame.width} x {frame.height}"
                    raise InvalidInput(f"a frame has {size} pixels, more than the limit of {MAX_PIXELS}", "video")
                yield frame
    except av.FFmpegError as error:
        # What came before the broken place has been seen.
        if not isinstance(error, av.EOFError | av.InvalidDataError):
            raise _unreadable(error) from error


def _unreadable(error: av.FFmpegError) -> InvalidInput:
    return InvalidInput(f"the video is no {NAMES} file that can be decoded: {error.strerror}", "video")


def _upright(frame: VideoFrame) -> Image.Image:
    image: Image.Image = cast(Any, frame).to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
