"""Putting a Triton installation together from the files of the wheel nvidia-pytriton.

The wheel holds tritonserver and its Python backend in a layout of its own; tritonserver wants one folder of backends.
The folder is made of links, inside the virtual environment, and nothing in the wheel is touched.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from launcher.errors import LauncherError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = "triton_python_backend_stub"


@dataclasses.dataclass(frozen=True)
class TritonInstallation:
    """Where tritonserver is, and what it needs around it."""

    binary: Path
    backends: Path
    caches: Path
    library_path: str

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """`base` with what tritonserver and its model processes need to find their libraries and this Python."""
        found = {**base, "LD_LIBRARY_PATH": _joined(self.library_path, base.get("LD_LIBRARY_PATH", ""))}
        # The stub asks the first `python3` on PATH where its packages are.
        found["PATH"] = _joined(str(Path(sys.prefix) / "bin"), base.get("PATH", os.defpath))
        found["VIRTUAL_ENV"] = sys.prefix
        return found


def assemble(folder: Path | None = None) -> TritonInstallation:
    """Make (or complete) the folder of backends and return the installation.

    Raises LauncherError when the wheel or the shared library of this Python is missing.
    """
    wheel = _wheel()
    backends = (folder or Path(sys.prefix) / "triton") / "backends"
    python_backend = backends / "python"
    python_backend.mkdir(parents=True, exist_ok=True)
    for source in _backend_files(wheel):
        _link(source, python_backend / source.name)
    libraries = [wheel.parents[1] / "nvidia_pytriton.libs", libpython_folder()]
    return TritonInstallation(
        binary=wheel / "bin" / "tritonserver",
        backends=backends,
        caches=wheel / "caches",
        library_path=_joined(*(str(path) for path in libraries if path)),
    )


def _wheel() -> Path:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise LauncherError(
            "tritonserver is not installed in this environment: install the project with the extra 'triton'"
        )
    return Path(spec.origin).parent / "tritonserver"


def _backend_files(wheel: Path) -> list[Path]:
    stub = wheel / "python_backend_stubs" / PYTHON / STUB
    if not stub.exists():
        raise LauncherError(f"tritonserver has no model process for Python {PYTHON}; use Python 3.10, 3.11 or 3.12")
    return [
        wheel / "backends/python/libtriton_python.so",
        wheel / "backends/python/triton_python_backend_utils.py",
        stub,
    ]


def _link(source: Path, target: Path) -> None:
    if target.is_symlink() and target.readlink() == source:
        return
    # Two launchers may do this at once; a rename never leaves a gap.
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(source)
    os.replace(partial, target)


def libpython_folder() -> Path | None:
    """Where the stub's libpython is, None if the loader finds it by itself."""
    name = f"libpython{PYTHON}.so.1.0"
    folder = Path(str(sysconfig.get_config_var("LIBDIR")))
    if (folder / name).exists():
        return folder
    if ctypes.util.find_library(f"python{PYTHON}"):
        return None
    raise LauncherError(
        f"Triton's Python backend needs {name}: install it (Debian and Ubuntu: apt install libpython{PYTHON})"
    )


def _joined(*paths: str) -> str:
    return os.pathsep.join(path for path in paths if path)
