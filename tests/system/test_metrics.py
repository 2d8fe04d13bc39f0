"""The `llm` entry on a real tritonserver, with the engine that needs no model: metrics, deadlines, stop.

What depends on a KV cache is asked of the whole system.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from launcher.pbtxt import read_config, write_config
from tests.bare_triton import BareTriton, bare_tritonserver
from tests.conftest import ROOT, System
from tests.native import joined, number, stream, text

pytestmark = pytest.mark.triton
IGNORE_EOS = '{"ignore_eos": true}'


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareTriton]:
    """A server with one entry, `llm`, whose engine says the prompt at 100 tokens a second."""
    folder = tmp_path_factory.mktemp("echo")
    entry = folder / "repository" / "llm"
    (entry / "1").mkdir(parents=True)
    (entry / "1" / "model.py").write_text((ROOT / "model_repository/llm/1/model.py").read_text())
    config = read_config(ROOT / "model_repository/llm/config.pbtxt")
    wanted = {"model": str(ROOT / "demo_models/demo-vl"), "engine": "echo", "echo_tokens_per_second": "100"}
    for key, value in wanted.items():
        config.parameters[key].string_value = value
    write_config(config, entry / "config.pbtxt")
    with bare_tritonserver(entry.parent, folder) as server:
        yield server


def page(system: BareTriton | System) -> dict[str, float]:
    """Values of our metrics by name and labels, the model's left out."""
    with urllib.request.urlopen(f"http://{system.metrics}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    found = [re.fullmatch(r"(trimodal_\w+)\{(.*)\} (\S+)", line) for line in lines]
    return {
        " ".join([match[1], *re.findall(r'(?:reason|finish_reason|le)="([^"]*)"', match[2])]): float(match[3])
        for match in found
        if match and 'model="llm"' in match[2]
    }


def growth(system: BareTriton | System, before: dict[str, float], name: str, by: float) -> None:
    """Wait until a number has grown by so much, and no further."""
    limit = time.monotonic() + 10
    while (grown := page(system).get(name, 0.0) - before.get(name, 0.0)) < by and time.monotonic() < limit:
        time.sleep(0.05)
    assert grown == by, f"{name} grew by {grown}"


def test_a_few_requests_show_on_the_metrics_page(echo: BareTriton) -> None:
    before = page(echo)
    inputs = {"text_input": text("Once upon a time there was a metric."), "max_tokens": number(6, np.int32)}
    replies = [stream(echo.grpc, "llm", {**inputs, "sampling_parameters": text(IGNORE_EOS)}) for _ in "ab"]
    num_prompt = int(replies[0][-1]["num_input_tokens"].item())
    growth(echo, before, "trimodal_requests length", 2)
    growth(echo, before, "trimodal_generated_tokens", 12)
    growth(echo, before, "trimodal_prompt_tokens", 2 * num_prompt)
    for histogram in ("queue_time", "time_to_first_token", "request_time"):
        growth(echo, before, f"trimodal_{histogram}_seconds_count", 2)
    growth(echo, before, "trimodal_running_requests", 0)
    shown = page(echo)
    gaps = [shown[f"trimodal_inter_token_time_seconds_{part}"] for part in ("sum", "count")]
    assert 0.005 < gaps[0] / gaps[1] < 0.1


def test_a_deadline_of_tritons_own_and_one_of_ours(echo: BareTriton) -> None:
    before = page(echo)
    endless = {"text_input": text("Tell me everything."), "sampling_parameters": text(IGNORE_EOS)}
    ours = {**endless, "sampling_parameters": text('{"ignore_eos": true, "timeout_s": 0.05}')}
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        stream(echo.grpc, "llm", ours)
    with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
        stream(echo.grpc, "llm", endless, timeout_us=50_000)
    growth(echo, before, "trimodal_aborts deadline", 2)


def test_a_stop_ends_a_request_at_once_even_while_it_is_prepared(echo: BareTriton) -> None:
    before = page(echo)
    prompt = {"text_input": text("word " * 500), "sampling_parameters": text(IGNORE_EOS)}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stream, echo.grpc, "llm", prompt, "long")
        while not answer.done():
            assert stream(echo.grpc, "llm", {"stop": np.array([[True]])}, "long") == []
    assert joined(answer.result()[-1:], "finish_reason") == "abort"
    growth(echo, before, "trimodal_aborts stop", 1)


def test_the_prefix_cache_shows_and_other_salts_share_nothing(triton: System) -> None:
    before = page(triton)

    def cached(salt: str) -> int:
        parameters = text(json.dumps({"cache_salt": salt}))
        inputs = {"text_input": text("A secret of one tenant only."), "max_tokens": number(2, np.int32)}
        last = stream(triton.grpc, "llm", {**inputs, "sampling_parameters": parameters})[-1]
        return int(last["num_cached_tokens"].item())

    assert [cached("red"), cached("blue")] == [0, 0]
    hits = cached("red")
    assert hits > 0
    growth(triton, before, "trimodal_prefix_cache_hit_tokens", hits)
    assert page(triton)["trimodal_cache_tokens"] > 0
