"""Models, probes, metrics, request ids and the error form of every route."""

from __future__ import annotations

import asyncio
import time

import httpx
import openai
import pytest

from tests.fake_triton import Entry, FakeTriton
from tests.gateway.conftest import Gateway, StartGateway


async def test_model_cards(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    assert [model.id async for model in client.models.list()] == ["demo-vl", "demo", "org/demo-speech"]
    assert (await client.models.retrieve("demo")).owned_by == "trimodal"
    card = (await gateway.http.get("/v1/models/demo")).json()
    assert abs(card.pop("created") - time.time()) < 60
    assert card == {
        "id": "demo",
        "object": "model",
        "owned_by": "trimodal",
        "task": "chat",
        "ready": True,
        "capabilities": ["chat", "completions", "vision", "tokenize"],
        "input_modalities": ["text", "image"],
        "max_model_len": 2048,
        "root": "llm",
        "aliases": ["demo-vl"],
    }
    speech = (await gateway.http.get("/v1/models/org/demo-speech")).json()
    assert (speech["id"], speech["task"], speech["max_model_len"]) == ("org/demo-speech", "transcription", None)
    missing = await gateway.http.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_adapter_is_a_model_under_its_own_name(start_gateway: StartGateway, fake: FakeTriton) -> None:
    fake.entries["llm"].parameters["lora_adapters"] = (
        '{"legal": "/adapters/legal", "org/demo-speech": "/adapters/taken"}'
    )
    gateway = await start_gateway()
    cards = {card["id"]: card for card in (await gateway.http.get("/v1/models")).json()["data"]}
    assert list(cards) == ["demo-vl", "demo", "org/demo-speech", "legal"]
    assert cards["org/demo-speech"]["root"] == "whisper", "an adapter has taken the id of a model"
    base = cards["demo-vl"]
    assert cards["legal"] == {**base, "id": "legal", "aliases": []} and base["aliases"] == ["demo"]
    # Without a model a chat still goes to the one checkpoint there is.
    for name in ("legal", "demo", None):
        assert (await gateway.chat(model=name)).status_code == 200
    body = {"model": "legal", "prompt": "hi"}
    assert (await gateway.http.post("/v1/completions", json=body)).json()["model"] == "legal"
    assert [request.tensors.get("lora_name") for request in fake.requests] == [[b"legal"], None, None, [b"legal"]]
    assert set((await gateway.http.get("/health")).json()["models"]) == {"demo-vl", "org/demo-speech"}


async def test_adapters_that_are_no_object_are_passed_over(start_gateway: StartGateway, fake: FakeTriton) -> None:
    fake.entries["llm"].parameters["lora_adapters"] = "[1]"
    gateway = await start_gateway()
    assert [card["id"] for card in (await gateway.http.get("/v1/models")).json()["data"]][:2] == ["demo-vl", "demo"]


async def test_models_that_go_are_forgotten(gateway: Gateway, fake: FakeTriton) -> None:
    del fake.entries["whisper"]
    await gateway.services.discovery.refresh()
    assert [card["id"] for card in (await gateway.http.get("/v1/models")).json()["data"]] == ["demo-vl", "demo"]


async def test_readiness_names_what_is_missing(start_gateway: StartGateway, fake: FakeTriton) -> None:
    gateway = await start_gateway(discovery_interval_s=0.02)
    assert (await gateway.http.get("/readiness")).json() == {"status": "ready"}
    fake.entries["vision_encoder"].state = "UNAVAILABLE"
    response = await answer_with(gateway, "/readiness", 503)
    assert response.json()["error"]["message"] == "Not ready: vision_encoder is UNAVAILABLE."
    assert response.headers["retry-after"]
    health = await gateway.http.get("/health")
    assert health.status_code == 503
    assert health.json()["models"]["demo-vl"]["ready"] is False
    assert (await gateway.http.get("/v1/models/demo-vl")).json()["ready"] is False
    assert health.json()["models"]["org/demo-speech"]["ready"] is True
    fake.entries["vision_encoder"].state = "READY"
    await answer_with(gateway, "/readiness", 200)
    fake.entries["new"] = Entry({"task": "chat"}, state="LOADING")
    assert "new is LOADING" in (await answer_with(gateway, "/readiness", 503)).text
    fake.entries["new"].state = "READY"
    await answer_with(gateway, "/readiness", 200)


async def test_an_encoder_that_was_never_loaded_here_is_elsewhere(gateway: Gateway, fake: FakeTriton) -> None:
    for name in ("image_frontend", "vision_encoder", "vision"):
        fake.entries[name].state = ""
    await gateway.services.discovery.refresh()
    assert (await gateway.http.get("/readiness")).status_code == 200
    fake.entries["llm"].state = ""
    await gateway.services.discovery.refresh()
    assert "llm is not loaded" in (await gateway.http.get("/readiness")).text


async def test_no_list_of_models_while_the_first_is_loading(start_gateway: StartGateway, fake: FakeTriton) -> None:
    for entry in fake.entries.values():
        entry.state = "LOADING"
    gateway = await start_gateway(discovery_interval_s=0.02)
    response = await answer_with(gateway, "/v1/models", 503)
    assert response.json()["error"]["message"] == "No model is served yet."
    for entry in fake.entries.values():
        entry.state = "READY"
    assert (await answer_with(gateway, "/v1/models", 200)).json()["data"]


async def test_triton_down_and_back(start_gateway: StartGateway, fake: FakeTriton) -> None:
    await fake.stop()
    gateway = await start_gateway(discovery_interval_s=0.05)
    assert (await gateway.http.get("/liveness")).status_code == 200
    assert (await gateway.http.get("/readiness")).status_code == 503
    early = await gateway.chat()
    assert (early.status_code, early.headers["retry-after"]) == (503, "5")
    await fake.start()
    await answer_with(gateway, "/readiness", 200)
    assert (await gateway.chat()).status_code == 200
    await fake.stop()
    response = await answer_with(gateway, "/readiness", 503)
    assert "Triton cannot be reached" in response.json()["error"]["message"]
    assert (await gateway.http.get("/liveness")).status_code == 200
    assert (await gateway.http.get("/health")).json()["triton"] == "down"
    assert (await gateway.chat()).status_code == 503
    await fake.start()
    await answer_with(gateway, "/readiness", 200)
    assert (await gateway.chat()).status_code == 200


async def test_every_answer_has_a_request_id(gateway: Gateway) -> None:
    for path in ("/liveness", "/readiness", "/health", "/metrics", "/v1/models", "/nope", "/v1/chat/completions"):
        assert len((await gateway.http.get(path)).headers["x-request-id"]) >= 16, path
    assert (await gateway.chat(stream=True)).headers["x-request-id"]
    assert (await gateway.chat(temperature=9)).headers["x-request-id"]
    given = await gateway.http.get("/liveness", headers={"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    unsafe = await gateway.http.get("/liveness", headers={"X-Request-Id": "a b" * 100})
    assert unsafe.headers["x-request-id"] != "a b" * 100


async def test_unknown_routes_and_methods(gateway: Gateway) -> None:
    missing = await gateway.http.get("/v1/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = await gateway.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    for response in (missing, wrong):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_fault_of_ours_has_a_fixed_answer(gateway: Gateway) -> None:
    gateway.services.discovery.models["demo"] = "not a model"  # type: ignore[assignment]
    response = await gateway.chat(model="demo", stream=True)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-request-id"]
    assert gateway.services.admission.running == 0


async def test_metrics_count(gateway: Gateway) -> None:
    await gateway.chat(stream=True)
    await gateway.chat(temperature=9)
    requests = 'trimodal_gateway_requests_total{route="/v1/chat/completions",status='
    assert await gateway.metric(requests + '"200"') == 1
    assert await gateway.metric(requests + '"400"') == 1
    assert await gateway.metric("trimodal_gateway_stream_events_total") == 2
    assert await gateway.metric('trimodal_gateway_first_token_seconds_count{model="demo-vl"}') == 1
    assert await gateway.metric("trimodal_gateway_requests_in_flight") == 1, "the scrape itself"


async def test_metrics_include_tritons(start_gateway: StartGateway) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nnv_used 1\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(triton_metrics=f"127.0.0.1:{port}")
        text = (await gateway.http.get("/metrics")).text
    assert "nv_used 1" in text and "trimodal_gateway_requests_total" in text


async def answer_with(gateway: Gateway, path: str, status: int) -> httpx.Response:
    """Asks until the answer has that status, at most five seconds: gRPC waits between attempts to connect."""
    for _ in range(250):
        response = await gateway.http.get(path)
        if response.status_code == status:
            return response
        await asyncio.sleep(0.02)
    raise AssertionError(f"{path} still answers {response.status_code}: {response.text}")


async def test_a_model_by_any_of_its_names(gateway: Gateway) -> None:
    for name in ("demo-vl", "demo"):
        answer = (await gateway.chat(model=name)).json()
        assert answer["model"] == name and answer["choices"]


@pytest.mark.parametrize(
    ("model", "status", "code"), [("no/such", 404, "model_not_found"), ("org/demo-speech", 400, "unsupported")]
)
async def test_a_model_that_cannot_answer(gateway: Gateway, model: str, status: int, code: str) -> None:
    refused = await gateway.chat(model=model)
    assert refused.status_code == status
    assert refused.json()["error"]["code"] == code and refused.json()["error"]["param"] == "model"
