"""The Slurm job, with programs in the places of apptainer and curl. No cluster was at hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from tests.source_tree import ROOT

SCRIPT = ROOT / "deploy/slurm/trimodal.sbatch"
# Says what it was asked, then waits for TERM, or ends at once where a file says so.
APPTAINER = """#!/bin/sh
printf '%s\\n' "$*" >> "$LOG"
case "$*" in *"$(cat "$FOLDER/broken")"*) exit 3;; esac
exec sleep 60
"""
CURL = """#!/bin/sh
printf '%s\\n' "$*" >> "$LOG.curl"
test -e "$FOLDER/up"
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    for name, text in {"apptainer": APPTAINER, "curl": CURL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scratch").mkdir()
    started = []

    def begin(broken: str = "nothing is", **variables: str) -> subprocess.Popen[str]:
        (tmp_path / "broken").write_text(broken)
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "FOLDER": str(tmp_path),
            "LOG": str(tmp_path / "log"),
            "TMPDIR": str(tmp_path / "scratch"),
            **variables,
        }
        pipe = subprocess.PIPE
        job = subprocess.Popen(
            ["bash", SCRIPT],
            env=environment,
            cwd=tmp_path,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )
        started.append(job)
        return job

    yield begin
    for job in started:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()


def test_the_job_waits_for_the_models_and_ends_both_programs_on_term(start: Start, tmp_path: Path) -> None:
    job = start(MODELS_FOLDER="/srv/models", MODEL_REPOSITORY="/models/repository", TRITON_PORT="9001")
    wait_for(lambda: len(lines(tmp_path / "log")) == 2 and bool(lines(tmp_path / "log.curl")))
    (tmp_path / "up").touch()
    assert job.stdout and re.fullmatch(r"ready on \S+, port 8000\n", job.stdout.readline())
    job.send_signal(signal.SIGTERM)
    assert job.wait(10) == 143
    assert list((tmp_path / "scratch").iterdir()) == []
    triton, gateway = sorted(lines(tmp_path / "log"), key=lambda line: "gateway.sif" in line)
    assert "--nv" in triton and "--bind /srv/models:/models:ro" in triton and "--grpc-port=9001" in triton
    assert "MODEL_REPOSITORY=/models/repository" in triton and "TRIMODAL_TRITON_GRPC=127.0.0.1:9001" in gateway
    assert "TRIMODAL_HOST=127.0.0.1,TRIMODAL_PORT=8000" in gateway
    assert "http://127.0.0.1:8000/readiness" in lines(tmp_path / "log.curl")[0]


def test_a_program_that_ends_before_it_is_ready_ends_the_job(start: Start) -> None:
    job = start(broken="trimodal-triton.sif", MODELS_FOLDER="/srv/models")
    assert job.wait(10) != 0


def test_a_job_without_models_says_so(start: Start) -> None:
    job = start()
    _, said = job.communicate(timeout=10)
    assert job.returncode != 0 and "MODELS_FOLDER: names a folder with checkpoints" in said


def test_the_job_sets_variables_that_the_programs_know() -> None:
    known = {f"TRIMODAL_{name.upper()}" for name in Settings.__dataclass_fields__} | {"TRIMODAL_GRPC_ENDPOINT"}
    assert set(re.findall(r"TRIMODAL_\w+(?==)", SCRIPT.read_text())) <= known


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)
