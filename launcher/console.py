"""What the user sees while the system starts and runs: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

PLAIN_LINE_EVERY_S = 5.0


class LiveLine:
    """A line that is overwritten on a terminal; elsewhere it is printed every few seconds when it is new."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._last = ""
        self._printed_at = 0.0

    def show(self, text: str) -> None:
        now = time.monotonic()
        if self._live:
            self._write("\r\033[K" + _cut(f"[{now - self._started:4.0f} s] {text}"))
        elif text != self._last and now - self._printed_at >= PLAIN_LINE_EVERY_S:
            self._write(f"[{now - self._started:4.0f} s] {text}\n")
            self._printed_at = now
            self._last = text

    def done(self) -> None:
        if self._live:
            self._write("\r\033[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def say(text: str) -> None:
    """One line for the user, with the time of day, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _cut(text: str) -> str:
    """A line that wraps cannot be overwritten."""
    return text[: max(40, shutil.get_terminal_size().columns) - 1]
