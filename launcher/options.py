"""What the command line asked for, as frozen values; cli.py fills them, the rest of the launcher reads them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from launcher.ports import Ports, address, connect_host

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


def project_version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder or a hub id, and the name it is served under."""

    source: str
    name: str


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Checkpoints to serve instead of the repository's own, and `parameters` that replace those of its entries."""

    chat: tuple[Checkpoint, ...] = ()
    speech: Checkpoint | None = None
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.chat or self.speech or self.parameters)


@dataclasses.dataclass(frozen=True)
class ServeOptions:
    host: str
    ports: Ports
    model_repository: Path
    models: ModelOptions
    port_file: Path | None = None
    # None: a file of the launcher's choice; `-`: standard error.
    log_file: str | None = None
    log_level: str = "info"
    gateway: bool = True
    # Native clients need no key, and may load and unload models: their ports are opened on their own.
    triton_host: str = "127.0.0.1"
    # Settings of the gateway by name, as its own command line has them.
    gateway_settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def url(self, ports: Ports) -> str:
        """The gateway's, as this machine reaches it."""
        scheme = "https" if self.gateway_settings.get("tls_cert_file") else "http"
        return f"{scheme}://{address(connect_host(self.host), ports.http)}"

    def log_path(self, ports: Ports) -> Path | None:
        if self.log_file == "-":
            return None
        return Path(self.log_file) if self.log_file else CACHE / f"serve-{ports.http or ports.grpc}.log"
