"""How long to wait before the next try, and when to stop trying."""

from __future__ import annotations

import time
from collections.abc import Callable

STABLE_S = 60.0


class Backoff:
    """Pauses double from `first_s` to `cap_s`. Whatever stayed well for a minute starts again at `first_s`."""

    def __init__(self, first_s: float, cap_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._first_s = first_s
        self._cap_s = cap_s
        self._clock = clock
        self._well_since: float | None = None

    def note_well(self) -> None:
        if self._well_since is None:
            self._well_since = self._clock()

    def next_pause_s(self) -> float:
        """Count one more failure and return the pause that follows it."""
        if self._well_since is not None and self._clock() - self._well_since > STABLE_S:
            self.failures = 0
        self._well_since = None
        self.failures += 1
        return min(self._cap_s, self._first_s * 2.0 ** (self.failures - 1))
