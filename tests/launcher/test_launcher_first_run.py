"""The first run with real environments and the real pip, on a project of one file that needs nothing from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.bootstrap import MARKER, STAMP
from launcher.options import ROOT

pytestmark = pytest.mark.slow

# An in-tree build backend: pip then asks no index for setuptools.
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        wheel.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("tiny-1.dist-info/RECORD", "")
    return name
"""

CODE = """
import sys
from pathlib import Path
from launcher.bootstrap import make_environment
root = Path(sys.argv[1])
make_environment(root, root / ".venv", ["x"])
"""


def write_project(folder: Path) -> Path:
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(f'{build}[project]\nname = "tiny"\nversion = "1"\n')
    (folder / "backend.py").write_text(BACKEND)
    return folder


def first_run(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(root)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen[str]) -> str:
    _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said
    return said


def has_tiny(root: Path) -> bool:
    return subprocess.run([root / ".venv/bin/python", "-c", "import tiny"], check=False).returncode == 0


def test_two_first_runs_at_once_make_one_environment(tmp_path: Path) -> None:
    root = write_project(tmp_path)
    runs = [first_run(root), first_run(root)]
    said = [finish(run) for run in runs]
    assert sorted("waiting for it" in text for text in said) == [False, True]
    assert sorted("making the environment in" in text for text in said) == [False, True]
    assert has_tiny(root)
    began = time.monotonic()
    assert finish(first_run(root)) == ""
    assert time.monotonic() - began < 2


def test_an_interrupted_first_run_is_repaired(tmp_path: Path) -> None:
    root = write_project(tmp_path)
    run = first_run(root)
    while not (root / ".venv" / MARKER).exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert not (root / ".venv" / STAMP).exists()
    assert "making the environment" in finish(first_run(root))
    assert has_tiny(root)
    assert not (root / ".venv" / MARKER).exists()


def test_a_changed_project_is_brought_up_to_date_in_place(tmp_path: Path) -> None:
    root = write_project(tmp_path)
    finish(first_run(root))
    (root / ".venv" / "kept").touch()
    (root / "pyproject.toml").write_text((root / "pyproject.toml").read_text() + "# another pin\n")
    assert "making the environment" in finish(first_run(root))
    assert (root / ".venv" / "kept").exists()
    assert json.loads((root / ".venv" / STAMP).read_text())["extras"] == ["x"]
