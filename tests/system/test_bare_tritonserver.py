"""`tritonserver --model-repository model_repository`, the binary by itself: every entry loads and answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.bare_triton import bare_tritonserver
from tests.conftest import ROOT
from tests.native import infer, joined, stream, text
from tests.pictures import draw

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def grpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a tritonserver that was told nothing but its repository, its backends and its ports."""
    with bare_tritonserver(ROOT / "model_repository", tmp_path_factory.mktemp("triton")) as server:
        yield server.grpc


def test_every_entry_is_ready(grpc: str) -> None:
    entries = sorted(path.parent.name for path in (ROOT / "model_repository").glob("*/config.pbtxt"))
    assert len(entries) == 10
    with grpcclient.InferenceServerClient(grpc) as client:
        assert [name for name in entries if not client.is_model_ready(name)] == []


def test_it_sees_and_answers(grpc: str) -> None:
    features = infer(grpc, "vision", {"image": text(draw(("red", "circle")))})["features"]
    assert features.dtype == np.float32 and features.ndim == 3
    question = '[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]}]'
    inputs = {"messages": text(question), "image": text(draw(("red", "circle")))}
    assert "red circle" in joined(stream(grpc, "llm", inputs))
