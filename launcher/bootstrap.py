"""Making the virtual environment on the first run, and going on in it. Only the standard library, before anything else.

A stamp in the environment says what it was made from (pyproject.toml, extras, place). Equal stamp: go on at once.
Another one: pip brings the environment up to date. A marker left by an interrupted installation: start afresh.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launcher.cli import check
from launcher.console import LiveLine
from launcher.errors import LauncherError
from launcher.pip_progress import run_pip
from launcher.triton_install import libpython_folder

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT_VARIABLE = "TRIMODAL_VENV"
SERVE_EXTRAS = ("gateway", "backends", "triton", "launcher")
TEST_EXTRAS = (*SERVE_EXTRAS, "dev")
MINIMUM_GLIBC = (2, 35)
STAMP = "trimodal.json"
MARKER = "trimodal-installing"


def main(arguments: Sequence[str]) -> int:
    """Replace this process by the launcher inside the environment; returns only when that cannot be."""
    try:
        check(arguments)
        python = _python_for(arguments)
    except LauncherError as error:
        print(f"trimodal: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("trimodal: interrupted; the next run finishes the installation", file=sys.stderr)
        return 130
    # The project is found from any folder, and no module of the user's folder is taken for one of the library's.
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    os.execve(python, [str(python), "-m", "launcher", *arguments], environment)


def check_platform(system: str, machine: str, libc: tuple[str, str]) -> None:
    """Raises LauncherError where the binaries of Triton's wheel do not run."""
    advice = "use the container instead (docker/)"
    if (system, machine) != ("Linux", "x86_64"):
        raise LauncherError(f"Triton's binaries need Linux on x86-64, and this is {system} on {machine}; {advice}")
    name, version = libc
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if name != "glibc" or numbers < MINIMUM_GLIBC:
        raise LauncherError(
            f"Triton's binaries need glibc 2.35 or newer, and this is {name or 'no glibc'} {version}; {advice}"
        )


def wanted_stamp(root: Path, extras: Sequence[str]) -> dict[str, Any]:
    pins = hashlib.sha256((root / "pyproject.toml").read_bytes()).hexdigest()
    return {"pins": pins, "extras": sorted(extras), "root": str(root)}


def is_current(venv: Path, wanted: dict[str, Any]) -> bool:
    """Whether the environment was made from the same, with at least the wanted extras."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads((venv / STAMP).read_text())
        same = all(found[key] == wanted[key] for key in ("pins", "root"))
        return same and set(wanted["extras"]) <= set(found["extras"]) and (venv / "bin/python").exists()
    return False


def _python_for(arguments: Sequence[str]) -> Path:
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    check_platform(platform.system(), platform.machine(), platform.libc_ver())
    if given:
        python = Path(given) / "bin" / "python"
        if not python.exists():
            raise LauncherError(
                f"{ENVIRONMENT_VARIABLE} is {given}, which is no virtual environment; make it or unset it"
            )
        return python
    venv = ROOT / ".venv"
    make_environment(ROOT, venv, TEST_EXTRAS if arguments[:1] == ["test"] else SERVE_EXTRAS)
    return venv / "bin" / "python"


def make_environment(root: Path, venv: Path, extras: Sequence[str]) -> None:
    """Bring `venv` to the pins of `root`; at once when it is there. Raises LauncherError."""
    wanted = wanted_stamp(root, extras)
    if is_current(venv, wanted):
        return
    with _locked(root / ".cache") as lock:
        # Another first run may have done it while this one waited.
        if is_current(venv, wanted):
            return
        wanted["extras"] = sorted({*extras, *_extras_of(venv)})
        _install(root, venv, wanted, lock)


def _install(root: Path, venv: Path, wanted: dict[str, Any], lock: int) -> None:
    line = LiveLine()
    line.show("making the environment in .venv (once; a few minutes)")
    marker = venv / MARKER
    if marker.exists() or not _is_sound(venv, wanted):
        _create(venv)
    marker.touch()
    (venv / STAMP).unlink(missing_ok=True)
    target = f"{root}[{','.join(wanted['extras'])}]"
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--editable", target]
    try:
        # With the lock in its hands, a pip that outlives this process keeps the next run waiting.
        run_pip(command, root / ".cache" / "install.log", venv, line, held=[lock])
    finally:
        line.done()
    partial = venv / f"{STAMP}.partial"
    partial.write_text(json.dumps(wanted))
    os.replace(partial, venv / STAMP)
    marker.unlink()


def _create(venv: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    advice = f"install it (Debian and Ubuntu: apt install python{version}-venv) and run the command again"
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise LauncherError(f"Python {version} has no venv module; {advice}")
    # Said now rather than after minutes of installation.
    libpython_folder()
    command = [sys.executable, "-m", "venv", "--clear", str(venv)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        reason = (made.stderr or made.stdout).strip().split("\n")[-1]
        raise LauncherError(
            f"the environment {venv} could not be made ({reason}); is the disk full, or the venv module missing?"
        )


def _is_sound(venv: Path, wanted: dict[str, Any]) -> bool:
    """Finished once, and in this place: one that was moved has scripts that point elsewhere."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return bool(json.loads((venv / STAMP).read_text())["root"] == wanted["root"] and (venv / "bin/python").exists())
    return False


def _extras_of(venv: Path) -> list[str]:
    """What an earlier `test` needed stays when `serve` updates the environment."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return list(json.loads((venv / STAMP).read_text())["extras"])
    return []


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    with (folder / "environment.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another first run is making the environment; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()
