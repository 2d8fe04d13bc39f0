"""`serve` with the real tritonserver and toy entries: start, lost model processes, stop. Nothing may stay behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from launcher.model_processes import ModelProcess, find_model_processes
from launcher.options import ROOT
from launcher.processes import SHARED_MEMORY
from tests.launcher.toys import BROKEN, tensors, write_entry, write_toys
from tests.launcher.waiting import until

pytestmark = pytest.mark.triton

PORTS = [word for name in ("port", "grpc-port", "metrics-port", "triton-http-port") for word in (f"--{name}", "0")]
ENDLESS = 100_000


@dataclass
class Serving:
    """A launcher under test; `family` is all it started, its model processes included."""

    process: subprocess.Popen[str]
    folder: Path
    family: list[psutil.Process] = field(default_factory=list)

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{json.loads((self.folder / 'ports.json').read_text())['grpc']}"

    @property
    def triton(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if child.name() == "tritonserver")

    def model_process(self, entry: str) -> ModelProcess:
        return next(one for one in find_model_processes(self.triton.pid) if one.entry == entry)

    def said(self) -> str:
        return (self.folder / "launcher.log").read_text()

    def note_family(self) -> None:
        self.family += psutil.Process(self.process.pid).children(recursive=True)

    def left_behind(self) -> list[str]:
        alive = [str(one) for one in self.family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        return alive + [path.name for path in SHARED_MEMORY.glob(f"trimodal_{self.process.pid}_*")]


@contextmanager
def serving(folder: Path, repository: Path, *flags: str) -> Iterator[Serving]:
    files = ["--port-file", str(folder / "ports.json"), "--log-file", str(folder / "triton.log")]
    command = [sys.executable, str(ROOT / "trimodal"), "serve", "--no-gateway", *PORTS, *files]
    environment = {**os.environ, "TRIMODAL_VENV": sys.prefix}
    with (folder / "launcher.log").open("w") as output:
        everything = [*command, "--model-repository", str(repository), *flags]
        process = subprocess.Popen(everything, cwd=folder, env=environment, stdout=output, stderr=output, text=True)
    running = Serving(process, folder)
    try:
        assert until(lambda: (folder / "ports.json").exists() or process.poll() is not None, 60), running.said()
        yield running
    finally:
        process.kill()
        process.wait()


class NativeStream:
    """An open stream of NVIDIA's own client; `error` is set when it ends with one."""

    def __init__(self, url: str, entry: str, tensor: str) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.ended_at = 0.0
        self._first = threading.Event()
        self._client = grpcclient.InferenceServerClient(url)
        self._client.start_stream(self._on_response)
        given = grpcclient.InferInput(tensor, [1], "INT32")
        given.set_data_from_numpy(np.array([ENDLESS], np.int32))
        self._client.async_stream_infer(entry, [given])

    def wait_for_first(self) -> None:
        assert self._first.wait(20)

    def close(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()

    def _on_response(self, result: object, error: Exception | None) -> None:
        self.count += 1
        if error is not None and self.error is None:
            self.error, self.ended_at = error, time.monotonic()
        self._first.set()


def echo(url: str, number: int) -> int:
    with grpcclient.InferenceServerClient(url) as client:
        given = grpcclient.InferInput("x", [1], "INT32")
        given.set_data_from_numpy(np.array([number], np.int32))
        return int(client.infer("echo", [given], client_timeout=10).as_numpy("count")[0])


def is_ready(url: str, *entries: str) -> bool:
    try:
        with grpcclient.InferenceServerClient(url) as client:
            return all(client.is_model_ready(entry, client_timeout=5) for entry in entries)
    except InferenceServerException:
        return False


def test_modules_in_the_users_folder_are_not_imported(tmp_path: Path) -> None:
    for name in ("numpy", "grpc", "psutil", "launcher"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user')")
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        assert echo(running.grpc, 5) == 5
        running.process.terminate()
        assert running.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        assert echo(running.grpc, 41) == 41
        running.note_family()
        assert len(running.family) >= 4
        running.process.send_signal(number)
        assert running.process.wait(20) == 0, running.said()
        assert running.left_behind() == []
        assert not (tmp_path / "ports.json").exists()


def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        stream = NativeStream(running.grpc, "stream", "count")
        stream.wait_for_first()
        running.note_family()
        # The open stream keeps tritonserver from leaving by itself.
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(3) == 130
        assert running.left_behind() == []
        stream.close()


def test_nothing_survives_a_killed_launcher(tmp_path: Path) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        stream = NativeStream(running.grpc, "stream", "count")
        stream.wait_for_first()
        running.note_family()
        running.process.kill()
        assert until(lambda: running.left_behind() == [], 5), running.left_behind()
        stream.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_model_process_ends_its_streams_and_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        url = running.grpc
        streams = [NativeStream(url, "stream", "count"), NativeStream(url, "both", "x")]
        for stream in streams:
            stream.wait_for_first()
        triton, lost, other = running.triton, running.model_process("stream"), running.model_process("echo")
        os.kill(lost.pid, number)
        assert until(lambda: all(stream.error for stream in streams), 8), running.said()
        assert until(lambda: is_ready(url, "stream", "both", "echo"), 20), running.said()
        assert running.model_process("stream").pid != lost.pid
        # A process killed while it holds a lock in shared memory takes tritonserver with it, which then starts anew.
        if running.triton == triton:
            assert running.model_process("echo").pid == other.pid
        again = NativeStream(url, "both", "x")
        again.wait_for_first()
        assert again.error is None
        again.close()
        running.note_family()
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert running.left_behind() == []
        for stream in streams:
            stream.close()


def test_a_model_that_an_operator_unloads_stays_unloaded(tmp_path: Path) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        with grpcclient.InferenceServerClient(running.grpc) as client:
            client.unload_model("echo", unload_dependents=True)
        assert until(lambda: not is_ready(running.grpc, "echo"), 10)
        time.sleep(2.5)
        assert not is_ready(running.grpc, "echo")
        assert "loading it again" not in running.said()


def test_a_killed_tritonserver_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        running.note_family()
        running.triton.kill()
        assert until(lambda: "tritonserver answers again" in running.said(), 30), running.said()
        assert until(lambda: is_ready(running.grpc, "both"), 10)
        assert echo(running.grpc, 7) == 7
        running.note_family()
        running.process.terminate()
        assert running.process.wait(20) == 0
        assert running.left_behind() == []


def test_a_model_that_does_not_load_is_named_with_its_reason(tmp_path: Path) -> None:
    repository = write_toys(tmp_path / "toys")
    write_entry(repository, "broken", tensors("x", "y"), BROKEN)
    with serving(tmp_path, repository) as running:
        assert running.process.wait(20) == 1
        last = running.said().splitlines()[-1]
        assert last.startswith("trimodal: broken did not load: unknown parameter 'dtpye' = 'x'; known are dtype; see ")
        assert list(SHARED_MEMORY.glob(f"trimodal_{running.process.pid}_*")) == []


@pytest.mark.slow
def test_a_server_that_cannot_stay_up_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path, write_toys(tmp_path / "toys")) as running:
        deaths = 0
        while running.process.poll() is None and deaths < 10:
            before = deaths
            # Helpers come and go between the look and the question.
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(running.process.pid).children():
                    if child.name() == "tritonserver" and child.status() != psutil.STATUS_ZOMBIE:
                        child.kill()
                        deaths += 1
            until(lambda: running.process.poll() is not None, 0.3 if deaths == before else 0.1)
        assert running.process.wait(20) == 1, running.said()
        assert deaths == 6
        assert "tritonserver ended unexpectedly (killed by SIGKILL), 6 times in a row; see " in running.said()
