"""Model Garden's routes: generate, and model control by Triton's own load and unload; and what has no entry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fake_triton import Entry, FakeTriton, Wait, token
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.test_gateway_stream import events

URL = "/api/v1/inference"
BEFORE = "/models/before"


@pytest.fixture(autouse=True)
def checkpoints(fake: FakeTriton) -> None:
    for name in ("llm", "tokenizer", "vision_encoder"):
        fake.entries[name].parameters["model"] = BEFORE
    fake.entries["whisper"].parameters["model"] = "/models/speech"


@pytest.fixture
async def controlled(start_gateway: StartGateway, tmp_path: Path) -> Gateway:
    return await start_gateway(loadable_models=f"{tmp_path},org/name,{BEFORE}")


async def ended(gateway: Gateway) -> Any:
    """The status when no load is running."""
    for _ in range(200):
        status = (await gateway.http.get(f"{URL}/status")).json()
        if not status["loading"]:
            return status
        await asyncio.sleep(0.02)
    raise AssertionError(status)


async def test_generate(gateway: Gateway, fake: FakeTriton) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 100, "temperature": 0.7, "top_p": 0.9, "stream": False}
    answer = (await gateway.http.post(f"{URL}/generate", json=body)).json()
    assert (answer["text"], answer["finish_reason"], answer["model"]) == ("Hello world", "stop", "demo-vl")
    counts = {name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert counts == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert fake.requests[0].tensors["text_input"] == [b"Once upon a time"]
    assert fake.requests[0].tensors["max_tokens"] == [100]
    streamed = await gateway.http.post(f"{URL}/generate", json={"prompt": "Once", "stream": True})
    assert events(streamed.text) == [
        {"text": "Hello", "finish_reason": None},
        {"text": " world", "finish_reason": None},
        {"text": "", "finish_reason": "stop"},
        "[DONE]",
    ]
    assert fake.requests[1].tensors["max_tokens"] == [256]
    for fields, param in (({"prompt": ["a", "b"]}, "prompt"), ({"prompt": "a", "n": 2}, "n"), ({}, "prompt")):
        refused = await gateway.http.post(f"{URL}/generate", json=fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_the_other_base_url(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.base_url + "/api/v1", api_key="dummy", max_retries=0) as client:
        assert [model.id async for model in client.models.list()][:2] == ["demo-vl", "demo"]
        assert (await client.models.retrieve("demo")).id == "demo"
        messages: list[Any] = [{"role": "user", "content": "hi"}]
        stream = await client.chat.completions.create(model="demo", messages=messages, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello world"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=messages)


async def test_unload_and_load_another_checkpoint(controlled: Gateway, fake: FakeTriton, tmp_path: Path) -> None:
    fake.entries["llm"].parameters |= {"engine": "torch", "tool_call_parser": "hermes"}
    status = await ended(controlled)
    assert (status["is_loaded"], status["model_path"], status["job"]) == (True, BEFORE, None)
    assert status["timestamp"].endswith("+00:00") and status["model_info"]["id"] == "demo-vl"
    unloaded = await controlled.http.post(f"{URL}/unload")
    assert (unloaded.status_code, unloaded.json()["success"]) == (200, True)
    down = {name for name, entry in fake.entries.items() if entry.state != "READY"}
    assert down == {"llm", "tokenizer", "vision_encoder"}, "speech has another checkpoint"
    status = await ended(controlled)
    assert (status["is_loaded"], status["model_path"]) == (False, None)
    wanted = {"model_path": "my-model", "max_model_len": 4096, "gpu_memory_utilization": 0.9, "quantization": "int8"}
    loading = await controlled.http.post(f"{URL}/load", json=wanted)
    assert loading.status_code == 202 and loading.json()["data"]["job_id"]
    status = await ended(controlled)
    path = str(tmp_path / "my-model")
    assert (status["is_loaded"], status["model_path"], status["job"]["status"]) == (True, path, "loaded")
    assert fake.loads[-1] == "llm", "the entry that clients ask comes last"
    assert fake.entries["tokenizer"].parameters == {"model": path}
    assert fake.entries["llm"].parameters == {
        "task": "chat",
        "input_modalities": "text,image",
        "engine": "torch",
        "model": path,
        "served_model_name": path,
        "max_model_len": "4096",
        "gpu_memory_utilization": "0.9",
        "quantization": "int8",
    }
    assert (await controlled.chat(model=path)).status_code == 200
    assert (await controlled.chat(model="demo")).status_code == 404


async def test_open_streams_end_before_the_model_goes(start_gateway: StartGateway, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), Wait(0.5), token("b", "stop")]
    gateway = await start_gateway(loadable_models=BEFORE, watch_interval_s=0.02)
    body = {"prompt": "Once", "stream": True}
    async with gateway.http.stream("POST", f"{URL}/generate", json=body) as response:
        lines = response.aiter_lines()
        said = [await anext(lines)]
        assert (await gateway.http.post(f"{URL}/unload")).status_code == 200
        said += [line async for line in lines]
    assert "data: [DONE]" in said and not any("error" in line for line in said)


async def test_loading_again_keeps_what_was_configured(controlled: Gateway, fake: FakeTriton) -> None:
    before = dict(fake.entries["llm"].parameters)
    await controlled.http.post(f"{URL}/unload")
    await controlled.http.post(f"{URL}/load", json={"model_path": BEFORE, "max_num_seqs": 4})
    assert (await ended(controlled))["is_loaded"]
    assert fake.entries["llm"].parameters == before | {"max_num_seqs": "4"}
    assert (await controlled.chat(model="demo")).status_code == 200


async def test_what_was_served_comes_back_as_status_names_it(start_gateway: StartGateway, fake: FakeTriton) -> None:
    fake.entries["llm"].parameters["model"] = "../../models/relative"
    gateway = await start_gateway(loadable_models="org/name")
    path = (await gateway.http.get(f"{URL}/status")).json()["model_path"]
    await gateway.http.post(f"{URL}/unload")
    assert (await gateway.http.post(f"{URL}/load", json={"model_path": path})).status_code == 202
    assert (await ended(gateway))["is_loaded"]
    assert (await gateway.chat(model="demo")).status_code == 200


async def test_a_load_that_fails(controlled: Gateway, fake: FakeTriton) -> None:
    await controlled.http.post(f"{URL}/unload")
    fake.load_fault = "no such folder\nTraceback (most recent call last):"
    assert (await controlled.http.post(f"{URL}/load", json={"model_path": "org/name"})).status_code == 202
    job = (await ended(controlled))["job"]
    assert (job["status"], job["model_path"]) == ("failed", "org/name")
    assert job["error"].endswith(": no such folder")


async def test_conflicts(controlled: Gateway, fake: FakeTriton) -> None:
    loaded = await controlled.http.post(f"{URL}/load", json={"model_path": "org/name"})
    assert (loaded.status_code, loaded.json()["error"]["code"]) == (409, "already_loaded")
    await controlled.http.post(f"{URL}/unload")
    twice = await controlled.http.post(f"{URL}/unload")
    assert (twice.status_code, twice.json()["error"]["code"]) == (404, "not_loaded")
    fake.entries["second"] = Entry({"task": "chat"})
    await controlled.services.discovery.refresh()
    several = await controlled.http.get(f"{URL}/status")
    assert (several.status_code, several.json()["error"]["code"]) == (409, "ambiguous")


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "org/other/../../..", "LINK", ""])
async def test_only_what_the_setting_names_is_loaded(controlled: Gateway, tmp_path: Path, path: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    wanted = str(tmp_path / "link") if path == "LINK" else path
    refused = await controlled.http.post(f"{URL}/load", json={"model_path": wanted})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model_path")


async def test_model_control_is_off(gateway: Gateway, fake: FakeTriton) -> None:
    for ask in (
        gateway.http.post(f"{URL}/load", json={"model_path": BEFORE}),
        gateway.http.post(f"{URL}/unload"),
        gateway.http.get(f"{URL}/status"),
    ):
        refused = await ask
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_control_off")
    assert fake.loads == []


async def test_no_embeddings(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does chat, not embedding"):
        await client.embeddings.create(model="demo", input="hi")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.embeddings.create(model="other", input="hi")
