"""Child processes that leave nothing behind: each has a session of its own, and a guard that outlives the launcher.

The launcher adopts what its children leave orphaned (Triton's model processes when tritonserver dies), so it can end
and reap them. The guard, a shell that waits for the end of its standard input, does so when the launcher is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

SHARED_MEMORY = Path("/dev/shm")
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.05
IDLE_GRACE_S = 2.0

GUARD = """
read -r order
[ "$order" = dismissed ] && exit
kill -s KILL -- "-$1"
[ -n "$2" ] && rm -f "/dev/shm/$2"*
"""


class ChildProcess:
    """One process, run in `folder`, and all its descendants (its session). `shm_prefix` names their shared memory."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: IO[bytes],
        shm_prefix: str = "",
    ) -> None:
        self.name = name
        self._shm_prefix = shm_prefix
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "trimodal-guard", str(self.pid), shm_prefix],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the process and all its descendants."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> None:
        while self.exit_code is None:
            await asyncio.sleep(POLL_S)

    async def stop(self, grace_s: float, is_idle: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, up to `grace_s` seconds to leave, then SIGKILL of what remains; afterwards nothing of it is left.

        Once `is_idle` says that no work is left, the rest of the grace is IDLE_GRACE_S.
        """
        if grace_s > 0:
            self.terminate()
            await _until(lambda: self.exit_code is not None or is_idle(), grace_s)
            await _until(lambda: self.exit_code is not None, min(grace_s, IDLE_GRACE_S))
        self.kill()
        await _until(self._is_gone, 10)
        remove_shared_memory(self._shm_prefix)
        self._dismiss_guard()

    def _is_gone(self) -> bool:
        if self.exit_code is None:
            return False
        with suppress(ChildProcessError):
            # Adopted orphans are ours to reap, and a zombie keeps its session alive.
            while os.waitpid(-self.pid, os.WNOHANG) != (0, 0):
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return False

    def _dismiss_guard(self) -> None:
        if self._guard.returncode is not None:
            return  # stopped before: a crashed process is stopped once more when the launcher ends
        # It may have been killed with whatever killed the rest.
        with suppress(BrokenPipeError):
            self._guard.communicate(b"dismissed\n")


def adopt_orphans() -> None:
    """Make this process the parent of its descendants' orphans; without effect where the kernel refuses."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def session_pids(leader: int) -> list[int]:
    """All processes of the session that `leader` began."""
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _session_of(pid) == leader]


def _session_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def kill_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def remove_shared_memory(prefix: str) -> None:
    for segment in SHARED_MEMORY.glob(f"{prefix}*") if prefix else ():
        segment.unlink(missing_ok=True)


def describe_exit(code: int | None) -> str:
    """'exit code 1', or 'killed by SIGKILL'."""
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True
