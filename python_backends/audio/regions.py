"""Where the regions of a recording come from: features that a client sent, or a file that a worker decodes ahead.

Knows threads and the decode pool; refuses to know torch, and what becomes of the regions.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from python_backends.audio.decode_pool import DecodedFile
from python_backends.audio.decode_worker import EndOfFile, LogMelPiece
from python_backends.audio.features import FLOOR, LogMel
from python_backends.audio.transcription import Region


class GivenRegion:
    """The one region of a recording whose features the client sent."""

    def __init__(self, region: Region) -> None:
        self.duration = region.duration
        self._region: Region | None = region

    @property
    def ended(self) -> bool:
        return self._region is None

    def take(self) -> Region | None:
        region, self._region = self._region, None
        return region

    def close(self) -> None:
        pass


class DecodedRegions:
    """Regions of a file, made on `executor` while others are decoded, but no more than `num_ahead` of them.

    `on_change` is called when a region is there, or the end, or a failure. Loudness is measured against the loudest
    moment so far: the extractor's own rule, whose "loudest" is that of the whole recording, would have to wait for it.
    """

    def __init__(
        self, file: DecodedFile, log_mel: LogMel, executor: Executor, num_ahead: int, on_change: Callable[[], None]
    ) -> None:
        self._file = file
        self._log_mel = log_mel
        self._executor = executor
        self._num_ahead = num_ahead
        self._on_change = on_change
        self._ready: deque[Region] = deque()
        self._lock = threading.Lock()
        self._working = False
        self._exhausted = False
        self._closed = False
        self._error: Exception | None = None
        self._peak = FLOOR
        self.duration = 0.0
        self._work_ahead()

    def __repr__(self) -> str:
        return f"<DecodedRegions {len(self._ready)} ready, {self.duration:.1f} s>"

    @property
    def ended(self) -> bool:
        """Also a failure must be taken first."""
        with self._lock:
            return self._exhausted and not self._ready and self._error is None

    def take(self) -> Region | None:
        with self._lock:
            if self._error is not None:
                raise self._error
            region = self._ready.popleft() if self._ready else None
        self._work_ahead()
        return region

    def close(self) -> None:
        """Not by the caller's thread: the worker may be busy with somebody else's file."""
        with self._lock:
            self._closed = True
        self._executor.submit(self._file.close)

    def _work_ahead(self) -> None:
        with self._lock:
            if self._working or self._exhausted or self._closed or len(self._ready) >= self._num_ahead:
                return
            self._working = True
        self._executor.submit(self._fetch)

    def _fetch(self) -> None:
        try:
            found = self._file.next()
            region = None if isinstance(found, EndOfFile) else self._region(found)
        except Exception as error:  # raised to whoever takes the next region
            region, found = None, None
            self._error = error
        with self._lock:
            self._working = False
            self._exhausted |= region is None
            if region is not None:
                self._ready.append(region)
                self.duration = region.start + region.duration
            elif found is not None:
                self.duration = found.duration
            exhausted = self._exhausted
        if exhausted:
            self._file.close()
        self._on_change()
        self._work_ahead()

    def _region(self, piece: LogMelPiece) -> Region:
        self._peak = max(self._peak, float(piece.log_power.max(initial=FLOOR)))
        return Region(self._log_mel.normalized(piece.log_power, self._peak), piece.duration, piece.start)
