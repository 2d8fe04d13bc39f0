"""tritonserver as it comes: the binary with a model repository and nothing of the launcher around it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from launcher.ports import Ports, choose_ports
from launcher.triton_install import assemble

_LOAD_S = 180


@dataclass(frozen=True)
class BareTriton:
    """Addresses as host:port."""

    grpc: str
    metrics: str
    http: str


@contextmanager
def bare_tritonserver(repository: Path, folder: Path) -> Iterator[BareTriton]:
    """Serve `repository` until the block ends; `folder` is for the installation and the log."""
    installation = assemble(folder / "triton")
    chosen = choose_ports("127.0.0.1", Ports(0, 0, 0, 0))
    addresses = BareTriton(*(f"127.0.0.1:{port}" for port in (chosen.grpc, chosen.metrics, chosen.triton_http)))
    ports = {"grpc": chosen.grpc, "http": chosen.triton_http, "metrics": chosen.metrics}
    flags = [f"--{name}-{kind}" for name, port in ports.items() for kind in ("address=127.0.0.1", f"port={port}")]
    command = [str(installation.binary), f"--model-repository={repository}", *flags]
    environment = installation.environment({**os.environ, "TRIMODAL_GRPC_ENDPOINT": addresses.grpc})
    log = folder / "triton.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, f"--backend-directory={installation.backends}"], env=environment, stdout=output, stderr=output
        )
        try:
            _wait_until_ready(addresses.grpc, server, log)
            yield addresses
        finally:
            server.terminate()
            server.wait(60)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _LOAD_S
    with grpcclient.InferenceServerClient(url) as client:
        while time.monotonic() < deadline:
            assert server.poll() is None, log.read_text()[-4000:]
            try:
                if client.is_server_ready():
                    return
            except InferenceServerException:
                time.sleep(0.5)
    raise AssertionError(log.read_text()[-4000:])
