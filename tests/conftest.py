"""Fixtures of the upper rungs: the whole system, started as a user starts it, on free ports of the loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest

# Before any test imports torch: sets how its threads wait.
import python_backends  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
_START_S = 300


@dataclass(frozen=True)
class System:
    """A running `./trimodal serve`: addresses as host:port, and its process."""

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://{self.http}/v1", api_key="none", max_retries=0, timeout=60)


@contextmanager
def serve(folder: Path, *flags: str) -> Iterator[System]:
    """Run the launcher with `flags` until the block ends; whatever fails, its log is in the message."""
    port_file, log = folder / "ports.json", folder / "system.log"
    ports = [word for name in ("port", "grpc-port", "metrics-port", "triton-http-port") for word in (f"--{name}", "0")]
    command = [sys.executable, "-m", "launcher", "serve", *ports, "--port-file", str(port_file)]
    with log.open("wb") as output:
        environment = {**os.environ, "TRIMODAL_VENV": sys.prefix}
        process = subprocess.Popen([*command, *flags], cwd=ROOT, stdout=output, stderr=output, env=environment)
    try:
        _wait_for(port_file, process, log)
        ports_used = {name: f"127.0.0.1:{port}" for name, port in json.loads(port_file.read_text()).items()}
        yield System(ports_used["http"], ports_used["grpc"], ports_used["metrics"], process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def _wait_for(port_file: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not port_file.exists():
        assert process.poll() is None, f"the launcher ended:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"not ready after {_START_S} s:\n{log.read_text()}"
        time.sleep(0.1)


def model_process(system: System, entry: str) -> psutil.Process:
    """Triton's process for one entry; its command line names the entry's model.py."""
    children = psutil.Process(system.process.pid).children(recursive=True)
    return next(child for child in children if any(f"/{entry}/1/model.py" in word for word in child.cmdline()))


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The bundled demo models, served by the true repository on the real tritonserver."""
    with serve(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="session")
def triton(system: System) -> System:
    """The same system, for tests that speak gRPC to Triton."""
    return system


@pytest.fixture
def client(system: System) -> Iterator[openai.OpenAI]:
    with system.client() as client:
        yield client
