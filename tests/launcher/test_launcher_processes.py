"""Child processes with real processes, and the watch over model processes with made-up ones."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launcher.backoff import Backoff
from launcher.logs import ProcessLog
from launcher.model_processes import (
    SCAN_S,
    ModelProcess,
    ModelProcesses,
    ProcessWatch,
    find_model_processes,
    parse_stub,
)
from launcher.processes import ChildProcess, describe_exit, session_pids
from launcher.startup import brief_reason
from launcher.triton_client import EntryState
from launcher.triton_install import STUB
from tests.launcher.waiting import until

# A process with a grandchild that ignores everything but SIGKILL.
STUBBORN = 'trap "" TERM; sleep 1000 & echo $!; wait; wait'


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def child(folder: Path, script: str, shm_prefix: str = "") -> tuple[ChildProcess, ProcessLog]:
    log = ProcessLog(folder / "log")
    return ChildProcess("toy", ["/bin/sh", "-c", script], os.environ, folder, log.output, shm_prefix), log


def test_stop_ends_grandchildren_and_removes_shared_memory(tmp_path: Path) -> None:
    prefix = f"trimodal_test_{os.getpid()}_"
    segment = Path("/dev/shm") / f"{prefix}1"
    segment.write_bytes(b"")
    toy, log = child(tmp_path, STUBBORN, prefix)
    assert until(lambda: len(session_pids(toy.pid)) == 2)
    pids = session_pids(toy.pid)
    asyncio.run(toy.stop(0.2))
    assert all(is_gone(pid) for pid in pids)
    assert toy.exit_code == -signal.SIGKILL
    assert not segment.exists()
    log.close()


def test_a_crashed_process_can_be_stopped_twice(tmp_path: Path) -> None:
    """Once to clear up after the crash, and once more if the launcher ends before it is started again."""
    toy, log = child(tmp_path, "exit 3")
    assert until(lambda: toy.exit_code == 3)
    asyncio.run(toy.stop(0))
    asyncio.run(toy.stop(30))
    log.close()


def test_stop_is_over_as_soon_as_the_process_is(tmp_path: Path) -> None:
    toy, log = child(tmp_path, "exec sleep 1000")
    began = time.monotonic()
    asyncio.run(toy.stop(30))
    assert time.monotonic() - began < 5
    assert toy.exit_code == -signal.SIGTERM
    log.close()


def test_the_guard_ends_everything_when_the_parent_is_killed(tmp_path: Path) -> None:
    prefix = f"trimodal_test_{os.getpid()}_g"
    segment = Path("/dev/shm") / prefix
    segment.write_bytes(b"")
    script = f"""
import os, time
from pathlib import Path
from tests.launcher.test_launcher_processes import child, STUBBORN
toy, log = child(Path({str(tmp_path)!r}), STUBBORN, {prefix!r})
print(toy.pid, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        leader = int(parent.stdout.readline())
        assert until(lambda: len(session_pids(leader)) == 2)
        pids = session_pids(leader)
        parent.kill()
    assert until(lambda: all(is_gone(pid) for pid in pids))
    assert until(lambda: not segment.exists())


def test_exits_are_told_in_words() -> None:
    assert describe_exit(1) == "exit code 1"
    assert describe_exit(-9) == "killed by SIGKILL"


def stub(entry: str, pid: int = 7, instance: int = 0, stopped: bool = False) -> ModelProcess:
    return ModelProcess(pid, entry, f"{entry}_0_{instance}", stopped)


def test_the_model_is_read_from_the_arguments_of_a_stub() -> None:
    command = (
        f"/b/python/{STUB} /r/llm_org_two/1/model.py shm-1 1048576 1048576 5 /b/python 336 llm_org_two_0_1 DEFAULT"
    )
    assert parse_stub(3, command.split()) == ModelProcess(3, "llm_org_two", "llm_org_two_0_1", segment="shm-1")
    assert parse_stub(3, ["/usr/bin/python", "/r/llm/1/model.py", "x"]) is None
    assert parse_stub(3, []) is None


def test_a_lost_process_is_named_until_it_is_back() -> None:
    watch = ProcessWatch()
    both = [stub("llm", 1), stub("whisper", 2)]
    assert watch.observe(both) == {}
    assert watch.observe(both[1:]) == {"llm": both[0]}
    assert watch.observe(both[1:]) == {"llm": both[0]}
    assert watch.observe([stub("llm", 3), both[1]]) == {}


def test_one_of_two_instances_is_missed() -> None:
    watch = ProcessWatch()
    assert watch.observe([stub("llm", 1, 0), stub("llm", 2, 1)]) == {}
    assert watch.observe([stub("llm", 1, 0)]) == {"llm": stub("llm", 2, 1)}


def test_a_new_process_of_an_instance_replaces_the_old_one() -> None:
    watch = ProcessWatch()
    assert watch.observe([stub("llm", 1)]) == {}
    assert watch.observe([stub("llm", 1), stub("llm", 2)]) == {}
    assert watch.observe([stub("llm", 2)]) == {}


def test_a_forgotten_entry_is_not_missed() -> None:
    watch = ProcessWatch()
    watch.observe([stub("llm")])
    watch.forget("llm")
    assert watch.observe([]) == {}


def test_an_entry_that_was_loaded_is_missed_before_its_process_was_ever_seen() -> None:
    watch = ProcessWatch()
    watch.expect("llm")
    assert set(watch.observe([stub("whisper")])) == {"llm"}
    assert watch.observe([stub("whisper"), stub("llm")]) == {}


def test_a_process_that_stays_stopped_is_lost() -> None:
    now = [0.0]
    watch = ProcessWatch(clock=lambda: now[0])
    running, stopped = stub("llm"), stub("llm", stopped=True)
    assert watch.observe([running]) == {}
    assert watch.observe([stopped]) == {}
    now[0] = 1.9
    assert watch.observe([stopped]) == {}
    now[0] = 2.1
    assert watch.observe([stopped]) == {"llm": dataclasses.replace(running, stopped=True)}


# A stand-in for tritonserver: it starts a stub for each model.py that it is told, and reaps none.
PARENT = f"""
import os, sys
for path in map(str.strip, sys.stdin):
    if os.fork() == 0:
        os.execv(sys.executable, [{STUB!r}, path, "shm", path.split("/")[-3] + "_0_0"])
"""


class Family:
    """Processes that look like stubs, their parent, and a look at them by a clock of the test."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self._folder = folder
        self._parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, text=True)
        self.processes = ModelProcesses(self._parent.pid, lambda: self.now)

    def start(self, entry: str) -> int:
        path = self._folder / entry / "1" / "model.py"
        path.parent.mkdir(parents=True)
        path.write_text("import time; time.sleep(1000)")
        assert self._parent.stdin is not None
        print(path, file=self._parent.stdin, flush=True)
        assert until(lambda: entry in self._running())
        return self._running()[entry]

    def seen(self) -> dict[str, bool]:
        """The entries that a look finds, and whether their process is stopped."""
        return {process.entry: process.stopped for process in self.processes.look()}

    def end(self) -> None:
        for pid in self._running().values():
            os.kill(pid, signal.SIGKILL)
        self.end_parent()

    def end_parent(self) -> None:
        self._parent.kill()
        self._parent.communicate()

    def _running(self) -> dict[str, int]:
        if self._parent.poll() is not None:
            return {}
        return {process.entry: process.pid for process in find_model_processes(self._parent.pid)}


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    yield family
    family.end()


def test_between_two_scans_a_lost_or_stopped_process_is_noticed_and_a_new_one_is_not(family: Family) -> None:
    lost, stopped = family.start("llm"), family.start("whisper")
    assert family.seen() == {"llm": False, "whisper": False}
    os.kill(stopped, signal.SIGSTOP)
    assert until(lambda: family.seen() == {"llm": False, "whisper": True})
    os.kill(lost, signal.SIGKILL)
    assert until(lambda: family.seen() == {"whisper": True}), "one that ended and was not reaped is lost too"
    os.kill(stopped, signal.SIGCONT)
    family.start("vision")
    assert until(lambda: family.seen() == {"whisper": False})
    family.now += SCAN_S
    assert family.seen() == {"whisper": False, "vision": False}


def test_a_process_that_is_no_longer_tritons_is_lost(family: Family) -> None:
    pid = family.start("llm")
    assert family.seen() == {"llm": False}
    family.end_parent()
    try:
        assert until(lambda: family.seen() == {})
        family.now += SCAN_S
        with pytest.raises(psutil.NoSuchProcess):
            family.processes.look()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_pauses_double_up_to_the_cap_and_a_well_minute_resets_them() -> None:
    now = [0.0]
    backoff = Backoff(1.0, 5.0, clock=lambda: now[0])
    assert [backoff.next_pause_s() for _ in range(4)] == [1, 2, 4, 5]
    backoff.note_well()
    now[0] = 30.0
    assert backoff.next_pause_s() == 5
    backoff.note_well()
    now[0] = 100.0
    assert backoff.next_pause_s() == 1


def test_the_log_tells_progress_and_the_last_error(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "log")
    log.output.write(b"I1121 08:17:29.458831 5 model_lifecycle.cc:839] \"successfully loaded 'llm'\"\n")
    log.output.write(b'E1121 08:17:29.458831 5 main.cc:1] "it broke"\nI1121 08:17:29.458831 5 a.cc:1] "bye"\n')
    log.output.flush()
    assert log.loaded_entries() == {"llm"}
    assert log.last_error("none") == "it broke"
    assert not log.is_drained(0)
    log.close()


def test_tritons_reason_loses_what_tells_the_user_nothing() -> None:
    reason = "Internal: TritonModelException: llm: OptionError: llm: unknown parameter 'x'\n\nAt:\n  model.py(3)\n;"
    assert brief_reason(EntryState("llm", "UNAVAILABLE", reason)) == "unknown parameter 'x'"
    assert "config.pbtxt may be broken" in brief_reason(EntryState("llm", "UNAVAILABLE", ""))
