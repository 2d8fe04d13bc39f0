"""Running pip with its long output turned into one line that says what is going on."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from launcher.console import LiveLine
from launcher.errors import LauncherError

TICK_S = 0.2
FLAGS = ("--progress-bar=off", "--no-input", "--disable-pip-version-check", "--no-color")


class PipProgress:
    """Follows pip's output line by line; `text` is the summary."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.collected = 0
        self.to_install = 0
        self.text = "starting pip"

    def feed(self, line: str) -> None:
        line = line.strip()
        if line.startswith("ERROR:"):
            self.errors.append(line.removeprefix("ERROR:").strip())
        elif match := re.match(r"Collecting (\S+)", line):
            self.collected += 1
            self.text = f"collecting {_name(match[1])} ({self.collected} packages so far)"
        elif match := re.match(r"Downloading (\S+) \(([^)]+)\)", line):
            self.text = (
                f"downloading {_name(match[1].rsplit('/', 1)[-1])}, {match[2]} ({self.collected} packages so far)"
            )
        elif line.startswith("Installing collected packages:"):
            self.to_install = line.count(",") + 1


def run_pip(command: Sequence[str], log: Path, venv: Path, line: LiveLine, held: Sequence[int] = ()) -> None:
    """Raises LauncherError with pip's own last error when it fails; all its output is in `log`.

    `held` are file descriptors that pip keeps open while it runs.
    """
    progress = PipProgress()
    before = _installed(venv)
    with log.open("w") as copy, _started([*command, *FLAGS], held) as pip:
        assert pip.stdout is not None
        try:
            _follow(pip.stdout, copy, progress, lambda: line.show(_text(progress, venv, before)))
        except BaseException:  # Ctrl-C too: pip must not go on alone
            pip.kill()
            raise
    if pip.returncode != 0:
        reason = progress.errors[-1] if progress.errors else f"exit code {pip.returncode}"
        raise LauncherError(f"pip could not install the packages ({reason}); see {log}, then run the command again")


def _started(command: Sequence[str], held: Sequence[int]) -> subprocess.Popen[bytes]:
    out, none = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdin=none, stdout=out, stderr=subprocess.STDOUT, pass_fds=held)


def _follow(output: IO[bytes], copy: IO[str], progress: PipProgress, show: Callable[[], None]) -> None:
    """Until pip closes its output. Ticks in between, so that the elapsed time goes on while pip is silent."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            show()
            if not selector.select(TICK_S):
                continue
            data = os.read(output.fileno(), 65536)
            copy.write(data.decode(errors="replace"))
            *lines, rest = (rest + data).split(b"\n")
            for line in [*lines, *([] if data else [rest])]:
                progress.feed(line.decode(errors="replace"))
            if not data:
                return


def _text(progress: PipProgress, venv: Path, before: int) -> str:
    if not progress.to_install:
        return progress.text
    done = min(progress.to_install, max(0, _installed(venv) - before))
    return f"installing: {done} of {progress.to_install} packages"


def _installed(venv: Path) -> int:
    return sum(1 for _ in venv.glob("lib/python*/site-packages/*.dist-info"))


def _name(requirement: str) -> str:
    """'torch' from 'torch==2.13.0', or from the name of its wheel."""
    return re.split(r"[=<>!~;\[-]", requirement)[0]
