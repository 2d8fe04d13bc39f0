"""Where the output of tritonserver and the gateway goes, and what can be read from it while Triton loads.

Triton opens its ports only when every entry has been tried, so until then its log is the only sign of progress.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import IO

# Triton's word for: no request is left, only the interpreters of its model processes have to end.
DRAINED = b"All models are stopped, unloading models"
TAIL_BYTES = 1 << 20

LOADED = re.compile(rb"successfully loaded '([^']+)'")
# glog's prefix: level, date, time, thread, file and line.
PREFIX = re.compile(r'^[EFW]\d{4} \S+ \d+ \S+\] "?(.*?)"?$')


class ProcessLog:
    """One file for all processes; `-` is this process's standard error, which cannot be read back."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is None:
            self.output: IO[bytes] = sys.stderr.buffer
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Appending, so that each process writes at the end whatever the others wrote.
            path.write_bytes(b"")
            self.output = path.open("ab")

    def close(self) -> None:
        if self.path is not None:
            self.output.close()

    def loaded_entries(self) -> set[str]:
        return {name.decode() for name in LOADED.findall(self._read())}

    def last_error(self, fallback: str) -> str:
        """The last line that a process wrote about a failure, without its prefix."""
        # What ends a process is written plainly, by the process itself or as Python's exception.
        plain = [line for line in self._lines() if re.match(r"(error|gateway|\w*Error)\b.*:", line)]
        found = plain or self._errors()
        return found[-1].strip() if found else fallback

    def reason_for(self, entry: str) -> str:
        """Why Triton did not even register an entry; the repository index is silent about those."""
        told = [line for line in self._errors() if f"'{entry}'" in line or f"/{entry}/" in line]
        return told[-1] if told else ""

    def size(self) -> int:
        return self.path.stat().st_size if self.path else 0

    def is_drained(self, since: int) -> bool:
        """Whether Triton said, after the log was `since` bytes long, that no request is left."""
        return DRAINED in self._read(since)

    @property
    def where(self) -> str:
        return str(self.path) if self.path else "the lines above"

    def _errors(self) -> list[str]:
        return [match.group(1) for match in map(PREFIX.match, self._lines()) if match]

    def _lines(self) -> list[str]:
        return self._read().decode(errors="replace").splitlines()

    def _read(self, since: int = 0) -> bytes:
        if self.path is None:
            return b""
        with self.path.open("rb") as file:
            # The end is enough, and a log of months is not read twenty times a second.
            file.seek(max(since, self.size() - TAIL_BYTES))
            return file.read()
