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
        lines = self._read().decode(errors="replace").splitlines()
        errors = [match.group(1) for match in map(PREFIX.match, lines) if match]
        plain = [line for line in lines if re.match(r"(error|gateway|\w*Error)\b.*:", line)]
        found = plain or errors
        return found[-1].strip() if found else fallback

    def reason_for(self, entry: str) -> str:
        """Why Triton did not even register an entry; the repository index is silent about those."""
        lines = [
            match.group(1) for match in map(PREFIX.match, self._read().decode(errors="replace").splitlines()) if match
        ]
        told = [line for line in lines if f"'{entry}'" in line or f"/{entry}/" in line]
        return told[-1] if told else ""

    def is_drained(self) -> bool:
        return DRAINED in self._read()

    @property
    def where(self) -> str:
        return str(self.path) if self.path else "the lines above"

    def _read(self) -> bytes:
        if self.path is None:
            return b""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - TAIL_BYTES))
            return file.read()
