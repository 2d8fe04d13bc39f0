"""`./trimodal test`: pytest over the project's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from launcher.options import ROOT

QUICK = "not slow and not gpu"


def run_tests(arguments: Sequence[str]) -> int:
    """All but the slow tests and those for a GPU, unless `-m` chooses; returns pytest's exit code."""
    command = [sys.executable, "-m", "pytest", *pytest_arguments(arguments)]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), check=False).returncode


def pytest_arguments(arguments: Sequence[str]) -> list[str]:
    # pytest takes the last -m, so a second one would silently replace the user's.
    chooses = any(argument == "-m" or argument.startswith("-m=") for argument in arguments)
    return [*arguments] if chooses else ["-m", QUICK, *arguments]
