"""The process that decodes: audio files in, log-mel of their pieces out. Started by decode_pool.py, and ends with it.

FFmpeg parses what strangers send, so it runs where a crash costs one process and not the model. Several files are open
at a time, and each moves on by one piece per request: nobody waits for the end of somebody's long recording, and
nothing is decoded before it is wanted.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from python_backends.audio.decode import SAMPLE_RATE, SampleStream
from python_backends.audio.features import Array, LogMel
from python_backends.audio.speech_cutter import CutOptions, Piece, SpeechCutter
from python_backends.errors import BackendError

# Beyond what any piece needs; a codec that goes wild then fails here and not by the system's choice of a victim.
MAX_MEMORY_BYTES = 4 << 30


class FileToDecode(NamedTuple):
    """data is the file; max_duration is in seconds; without `cut` it is one piece, however long."""

    data: bytes
    max_duration: float
    cut: CutOptions | None


class LogMelPiece(NamedTuple):
    """log_power [mels, frames] that begins `start` seconds into the recording; duration in seconds of sound."""

    start: float
    duration: float
    log_power: Array


class EndOfFile(NamedTuple):
    """duration of the whole recording in seconds."""

    duration: float


class Failure(NamedTuple):
    """What a BackendError says, by its code."""

    code: str
    message: str
    field: str


Reply = LogMelPiece | EndOfFile | Failure


def pieces(file: FileToDecode, log_mel: LogMel) -> Iterator[Reply]:
    """The pieces of a file, then its end; or a failure."""
    try:
        stream = SampleStream(file.data, file.max_duration)
        for piece in _cut(stream, file.cut, log_mel.window_samples):
            yield LogMelPiece(piece.start, len(piece.samples) / SAMPLE_RATE, log_mel.log_power(piece.samples))
        yield EndOfFile(stream.duration)
    except BackendError as error:
        yield Failure(error.code, str(error), error.field)
    except Exception as error:  # becomes the error reply to the request whose file this is
        yield Failure("INTERNAL", f"{type(error).__name__}: {error}", "")


def _cut(stream: SampleStream, options: CutOptions | None, window_samples: int) -> Iterator[Piece]:
    if options is None:
        yield Piece(0.0, np.concatenate([np.empty(0, np.float32), *stream]))
        return
    cutter = SpeechCutter(window_samples, options)
    for block in stream:
        yield from cutter.push(block)
    yield from cutter.finish()


def main() -> None:
    """Serve the pipe whose file descriptor is the program's argument."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    serve(Connection(int(sys.argv[1])))


def serve(connection: Any) -> None:
    """Answer requests until the other side is gone: (`open`, id, file), (`next`, id), (`close`, id)."""
    log_mel: LogMel = connection.recv()
    files: dict[int, Iterator[Reply]] = {}
    while True:
        try:
            verb, file_id, *rest = connection.recv()
        except (EOFError, OSError):
            return
        if verb == "open":
            files[file_id] = pieces(rest[0], log_mel)
        elif verb == "next":
            connection.send(next(files[file_id]))
        else:
            files.pop(file_id, None)
