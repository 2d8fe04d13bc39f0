"""`tritonserver --model-repository model_repository`, the binary by itself: every entry loads and answers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from launcher.ports import Ports, choose_ports
from launcher.triton_install import assemble
from tests.conftest import ROOT
from tests.native import infer, joined, stream, text
from tests.pictures import draw

pytestmark = [pytest.mark.triton, pytest.mark.slow]
_LOAD_S = 180


@pytest.fixture(scope="module")
def grpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a tritonserver that was told nothing but its repository, its backends and its ports."""
    installation = assemble(tmp_path_factory.mktemp("triton"))
    chosen = choose_ports("127.0.0.1", Ports(0, 0, 0, 0))
    url, log = f"127.0.0.1:{chosen.grpc}", tmp_path_factory.mktemp("log") / "triton.log"
    addresses = [f"--{name}-address=127.0.0.1" for name in ("grpc", "http", "metrics")]
    ports = [
        f"--grpc-port={chosen.grpc}",
        f"--http-port={chosen.triton_http}",
        f"--metrics-port={chosen.metrics}",
    ]
    command = [str(installation.binary), f"--model-repository={ROOT / 'model_repository'}", *addresses, *ports]
    environment = installation.environment({**os.environ, "TRIMODAL_GRPC_ENDPOINT": url})
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, f"--backend-directory={installation.backends}"], env=environment, stdout=output, stderr=output
        )
        try:
            _wait_until_ready(url, server, log)
            yield url
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


def test_every_entry_is_ready(grpc: str) -> None:
    entries = sorted(path.parent.name for path in (ROOT / "model_repository").glob("*/config.pbtxt"))
    assert len(entries) == 9
    with grpcclient.InferenceServerClient(grpc) as client:
        assert [name for name in entries if not client.is_model_ready(name)] == []


def test_it_sees_and_answers(grpc: str) -> None:
    features = infer(grpc, "vision", {"image": text(draw(("red", "circle")))})["features"]
    assert features.dtype == np.float32 and features.ndim == 3
    question = '[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]}]'
    inputs = {"messages": text(question), "image": text(draw(("red", "circle")))}
    assert "red circle" in joined(stream(grpc, "llm", inputs))
