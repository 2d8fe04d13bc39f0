"""The first run: which Python, which platform, when the environment is made anew. pip itself is not run here."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.bootstrap import check_platform, is_current, make_environment, wanted_stamp
from launcher.console import LiveLine
from launcher.errors import LauncherError
from launcher.options import ROOT
from launcher.pip_progress import PipProgress, run_pip
from launcher.triton_install import assemble

SCRIPT = ROOT / "trimodal"


def run_script(*arguments: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [python, str(SCRIPT), *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def project(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text("[project]\nname = 'p'\n")
    return folder


def stamped(root: Path, *extras: str) -> Path:
    """An environment that looks finished."""
    venv = root / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(sys.executable)
    (venv / "trimodal.json").write_text(json.dumps(wanted_stamp(root, extras)))
    return venv


def test_the_script_is_readable_by_old_pythons() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_version_and_help_need_no_environment() -> None:
    assert run_script("--version").stdout.startswith("trimodal 0.")
    assert "TRIMODAL_VENV" in run_script("--help").stdout


def test_a_given_environment_is_used_as_it_is(tmp_path: Path) -> None:
    ran = run_script("repository", "build", str(tmp_path), "--speech-model", str(tmp_path), TRIMODAL_VENV=sys.prefix)
    assert "has no config.json" in ran.stderr
    ran = run_script("serve", TRIMODAL_VENV=str(tmp_path))
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert f"TRIMODAL_VENV is {tmp_path}, which is no virtual environment" in ran.stderr


@pytest.mark.parametrize(
    ("system", "machine", "libc", "said"),
    [
        ("Darwin", "arm64", ("", ""), "Darwin on arm64; use the container"),
        ("Linux", "aarch64", ("glibc", "2.36"), "Linux on aarch64; use the container"),
        ("Linux", "x86_64", ("glibc", "2.31"), "glibc 2.31; use the container"),
        ("Linux", "x86_64", ("", ""), "no glibc"),
    ],
)
def test_other_platforms_are_sent_to_the_container(system: str, machine: str, libc: tuple[str, str], said: str) -> None:
    with pytest.raises(LauncherError, match=said):
        check_platform(system, machine, libc)


def test_this_platform_is_accepted() -> None:
    check_platform("Linux", "x86_64", ("glibc", "2.35"))


def test_the_stamp_follows_pins_extras_and_place(tmp_path: Path) -> None:
    root = project(tmp_path)
    venv = stamped(root, "gateway", "dev")
    assert is_current(venv, wanted_stamp(root, ["gateway"]))
    assert not is_current(venv, wanted_stamp(root, ["gateway", "triton"]))
    assert not is_current(venv, {**wanted_stamp(root, ["gateway"]), "root": "/elsewhere"})
    (root / "pyproject.toml").write_text("[project]\nname = 'q'\n")
    assert not is_current(venv, wanted_stamp(root, ["gateway"]))


def test_a_current_environment_is_left_alone(tmp_path: Path) -> None:
    venv = stamped(project(tmp_path), "gateway")
    before = sorted(venv.rglob("*"))
    make_environment(tmp_path, venv, ["gateway"])
    assert sorted(venv.rglob("*")) == before


def test_a_vanished_python_makes_the_environment_stale(tmp_path: Path) -> None:
    venv = stamped(project(tmp_path), "gateway")
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(tmp_path / "gone")
    assert not is_current(venv, wanted_stamp(tmp_path, ["gateway"]))


def test_pip_is_summarised_and_its_error_is_the_sentence(tmp_path: Path) -> None:
    script = "print('Collecting torch==2.13.0'); print('ERROR: no disk space left'); raise SystemExit(1)"
    shown = io.StringIO()
    with pytest.raises(LauncherError, match=r"could not install the packages \(no disk space left\)"):
        run_pip([sys.executable, "-c", script], tmp_path / "log", tmp_path, LiveLine(shown))
    assert "ERROR: no disk space" in (tmp_path / "log").read_text()
    assert "[   0 s] starting pip" in shown.getvalue()


def test_pips_lines_become_counts() -> None:
    progress = PipProgress()
    progress.feed("Collecting torch==2.13.0 (from trimodal==0.1.0)")
    assert progress.text == "collecting torch (1 packages so far)"
    progress.feed("  Downloading torch-2.13.0-cp311-none-linux.whl (190.1 MB)")
    assert progress.text == "downloading torch, 190.1 MB (1 packages so far)"
    progress.feed("Installing collected packages: a, b, c")
    assert progress.to_install == 3


def test_assembling_triton_twice_gives_the_same_links(tmp_path: Path) -> None:
    installation = assemble(tmp_path)
    assert assemble(tmp_path) == installation
    files = sorted(path.name for path in (installation.backends / "python").iterdir())
    assert files == ["libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"]
    assert all(path.is_symlink() and path.exists() for path in (installation.backends / "python").iterdir())
    assert installation.binary.exists()


def test_the_environment_of_triton_finds_this_python_first(tmp_path: Path) -> None:
    environment = assemble(tmp_path).environment({"PATH": "/usr/bin"})
    assert shutil.which("python3", path=environment["PATH"]) == f"{sys.prefix}/bin/python3"
    assert "nvidia_pytriton.libs" in environment["LD_LIBRARY_PATH"]
