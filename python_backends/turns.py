"""Processes that compute on the same cores do it in turns.

An operator of torch is done when each thread has done its part. Where two processes have a thread on each core, nearly
every operator of both waits for a thread that the system has put aside, and both together are several times slower than
one after the other. So a process takes its turn for a step, and then lets the next one have it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch


class Turns:
    """One of those who share this process's cores, in order; `folder` is where their lock files are.

    The system gives up the locks of a process that dies. Where the files cannot be made, nobody waits for anybody.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cores = sha256(repr(sorted(os.sched_getaffinity(0))).encode()).hexdigest()[:12]
        path = (folder or Path(tempfile.gettempdir())) / f"trimodal-{os.getuid()}-{cores}"
        # Whoever waits for the second holds the first: who has just had a turn comes behind him.
        self._locks: list[int | None] = [_open(path.with_suffix(f".{name}")) for name in ("next", "now")]

    def __del__(self) -> None:
        for lock in self._locks:
            if lock is not None:
                os.close(lock)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the others, then compute."""
        following, now = self._locks
        if following is None or now is None:
            yield
            return
        fcntl.flock(following, fcntl.LOCK_EX)
        fcntl.flock(now, fcntl.LOCK_EX)
        fcntl.flock(following, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(now, fcntl.LOCK_UN)


class NoTurns(Turns):
    """For those who compute elsewhere."""

    def __init__(self) -> None:
        self._locks = [None, None]


def turns_on(device: torch.device) -> Turns:
    return Turns() if device.type == "cpu" else NoTurns()


def _open(path: Path) -> int | None:
    """None for a file that cannot be opened, or is another user's, who might never let go of it."""
    try:
        found = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    if os.fstat(found).st_uid == os.getuid():
        return found
    os.close(found)
    return None
