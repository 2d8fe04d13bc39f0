"""Which process runs which model: Triton's Python backend starts a stub per instance, with the model in its arguments.

triton_python_backend_stub REPOSITORY/ENTRY/VERSION/model.py SHM_REGION ... INSTANCE DEFAULT
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

import psutil

from launcher.triton_install import STUB

# A process that a person stops for a moment (Ctrl-Z, a debugger that attaches) is left alone.
STOPPED_FOR_S = 2.0
# Finding the children of a process takes a look at every process of the machine.
SCAN_S = 1.0


@dataclasses.dataclass(frozen=True)
class ModelProcess:
    """`segment` is the name of the shared memory through which tritonserver speaks with it."""

    pid: int
    entry: str
    instance: str
    stopped: bool = False
    segment: str = ""


def parse_stub(pid: int, command: Sequence[str], stopped: bool = False) -> ModelProcess | None:
    """None for anything but a stub. The arguments after the path changed between Triton's versions."""
    if len(command) < 3 or PurePath(command[0]).name != STUB:
        return None
    entry = PurePath(command[1]).parent.parent.name
    instance = next((argument for argument in reversed(command[2:]) if argument.startswith(f"{entry}_")), entry)
    return ModelProcess(pid, entry, instance, stopped, command[2])


def find_model_processes(triton_pid: int) -> list[ModelProcess]:
    """The living stubs of this tritonserver; a dead one that was not reaped has no arguments and is left out."""
    found = []
    for child in psutil.Process(triton_pid).children():
        try:
            process = parse_stub(child.pid, child.cmdline(), child.status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            continue
        if process:
            found.append(process)
    return found


class ModelProcesses:
    """The living stubs of one tritonserver, at the cost of one small file for each that is known already."""

    def __init__(self, triton_pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._triton_pid = triton_pid
        self._clock = clock
        self._found: list[ModelProcess] = []
        self._scanned_at = float("-inf")

    def look(self) -> list[ModelProcess]:
        """Those of the last scan that live, and how they are now; a new stub is seen after SCAN_S at most."""
        if self._clock() - self._scanned_at >= SCAN_S:
            return self.scan()
        states = [(process, _state_of_child(process.pid, self._triton_pid)) for process in self._found]
        return [dataclasses.replace(process, stopped=state == "T") for process, state in states if state]

    def scan(self) -> list[ModelProcess]:
        """All there are at this moment. Raises psutil.NoSuchProcess when tritonserver is gone."""
        self._found = find_model_processes(self._triton_pid)
        self._scanned_at = self._clock()
        return self._found


def _state_of_child(pid: int, parent: int) -> str:
    """The letter that proc_pid_stat(5) has for the state of a process; empty if it ended or is another's child."""
    try:
        # The name in front of them may hold spaces and brackets itself.
        state, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return ""
    return state if state not in "ZXx" and int(ppid) == parent else ""


class ProcessWatch:
    """Compares what runs now with what ran before, and names the entries that lost a process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, ModelProcess] = {}
        self._expected: set[str] = set()
        self._stopped_since: dict[int, float] = {}

    def observe(self, running: Iterable[ModelProcess]) -> dict[str, ModelProcess]:
        """The lost process per entry: gone, or stopped for longer than STOPPED_FOR_S."""
        now = self._clock()
        processes = list(running)
        stopped = {process.pid for process in processes if process.stopped}
        self._stopped_since = {pid: self._stopped_since.get(pid, now) for pid in stopped}
        alive = [one for one in processes if now - self._stopped_since.get(one.pid, now) <= STOPPED_FOR_S]
        instances = {process.instance: process for process in alive}
        missing = [process for name, process in self._known.items() if name not in instances]
        lost = {one.entry: dataclasses.replace(one, stopped=one.pid in stopped) for one in missing}
        self._known.update(instances)
        self._expected -= {process.entry for process in alive}
        return lost | {entry: ModelProcess(0, entry, "") for entry in self._expected}

    def forget(self, entry: str) -> None:
        """It is unloaded: the next observation says what it consists of."""
        self._expected.discard(entry)
        self._known = {name: process for name, process in self._known.items() if process.entry != entry}

    def expect(self, entry: str) -> None:
        """It was loaded, so it has a process; a death before the first observation is noticed too."""
        self.forget(entry)
        self._expected.add(entry)
