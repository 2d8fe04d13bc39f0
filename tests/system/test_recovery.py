"""A model process that is killed in mid-stream: its streams end with an error, and the model comes back by itself."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.checkpoints import DEMO_VL
from tests.conftest import System, model_process, serve
from tests.native import number, stream, text

pytestmark = [pytest.mark.triton, pytest.mark.slow]

ENDLESS = {"ignore_eos": True, "max_tokens": 1900}
MESSAGES: Any = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def chat_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    flags = ("--model", str(DEMO_VL), "--served-model-name", "demo-vl")
    with serve(tmp_path_factory.mktemp("recovery"), *flags) as running:
        yield running


def test_killed_model_ends_its_streams_and_returns(chat_only: System) -> None:
    native_error: list[BaseException] = []
    native = threading.Thread(target=_stream_natively, args=(chat_only.grpc, native_error))
    with chat_only.client() as client:
        chunks = iter(
            client.chat.completions.create(model="demo-vl", messages=MESSAGES, stream=True, extra_body=ENDLESS)
        )
        native.start()
        next(chunks)
        time.sleep(0.3)
        killed = time.monotonic()
        model_process(chat_only, "llm").send_signal(signal.SIGKILL)
        with pytest.raises(openai.APIError):
            list(chunks)
        native.join(20)
        assert not native.is_alive() and native_error, "a native stream must end with an error, too"
        assert time.monotonic() - killed < 10
        assert _first_answer(client).choices[0].finish_reason == "stop"


def test_stopping_leaves_nothing(chat_only: System) -> None:
    """Runs last in this module: what the launcher started ends with it."""
    started = psutil.Process(chat_only.process.pid).children(recursive=True)
    assert len(started) > 5
    chat_only.process.send_signal(signal.SIGTERM)
    assert chat_only.process.wait(60) == 0
    _, alive = psutil.wait_procs(started, timeout=1)
    assert alive == []


def _stream_natively(url: str, errors: list[BaseException]) -> None:
    inputs = {
        "messages": text('[{"role": "user", "content": "Who are you?"}]'),
        "max_tokens": number(1900, int).astype("int32"),
        "sampling_parameters": text('{"ignore_eos": true}'),
    }
    try:
        stream(url, "llm", inputs)
    except InferenceServerException as error:
        errors.append(error)


def _first_answer(client: openai.OpenAI, seconds: float = 120) -> Any:
    """The model, or all of tritonserver if the killed process held one of its locks, is loaded again."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return client.chat.completions.create(model="demo-vl", messages=MESSAGES, temperature=0)
        except openai.APIError:
            assert time.monotonic() < deadline, "the model did not come back"
            time.sleep(0.3)
