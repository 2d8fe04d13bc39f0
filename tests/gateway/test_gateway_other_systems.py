"""Requests as the documents of EasyDeL, Model Garden and vLLM write them, sent by plain HTTP as their examples do."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from tests.fake_triton import FakeTriton, token
from tests.gateway.conftest import Gateway, StartGateway

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
BASE64 = base64.b64encode(PICTURE).decode()
TIMINGS = json.dumps({"prepare_s": 0.1, "first_token_s": 0.5, "total_s": 1.0})


@pytest.fixture(autouse=True)
def timed(fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a red"), token(" circle", "stop", timings=TIMINGS)]


def easydels(image: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Describe this image."}]
    sampling = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 128, "stream": False}
    return {"model": "demo", "messages": [{"role": "user", "content": content}], **sampling, **more}


@pytest.mark.parametrize("image", [BASE64, f"data:image/jpeg;base64,{BASE64}"])
async def test_easydels_chat_with_a_picture(gateway: Gateway, fake: FakeTriton, image: str) -> None:
    answer = (await gateway.http.post("/v1/chat/completions", json=easydels(image))).json()
    assert answer["object"] == "chat.completion" and abs(answer["created"] - time.time()) < 60
    choice = answer["choices"][0]
    assert (choice["index"], choice["message"]["role"], choice["finish_reason"]) == (0, "assistant", "stop")
    assert choice["message"]["content"] == "a red circle"
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 2, 9)
    assert (usage["tokens_per_second"], usage["processing_time"]) == (2.0, 1.0)
    assert fake.requests[0].tensors["image"] == [PICTURE]


async def test_easydels_loop_over_the_lines_of_a_stream(gateway: Gateway) -> None:
    body = easydels(BASE64, stream=True, stream_options={"include_usage": True})
    text, last = "", {}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line[6:] == "[DONE]":
                break
            last = json.loads(line[6:])
            text += "".join(choice["delta"].get("content", "") for choice in last["choices"])
    assert text == "a red circle"
    assert last["usage"]["first_token_time"] == 0.5


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/tools"),
        ("POST", "/v1/tools/execute"),
        ("GET", "/api/v1/inference/queue"),
        ("GET", "/docs"),
        ("GET", "/"),
    ],
)
async def test_routes_that_are_not_here(gateway: Gateway, method: str, path: str) -> None:
    missing = await gateway.http.request(method, path)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


async def test_a_key_in_the_query_opens_nothing(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(api_keys="tm-one-key-of-the-tests")
    query = {"Authorization": "tm-one-key-of-the-tests"}
    assert (await gateway.http.get("/v1/models", params=query)).status_code == 401
    assert (
        await gateway.http.get("/v1/models", headers={"Authorization": "Bearer tm-one-key-of-the-tests"})
    ).is_success


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded"])
async def test_the_content_type_is_not_looked_at(gateway: Gateway, fake: FakeTriton, kind: str) -> None:
    """curl's `-d @payload.json` names a form unless it is told otherwise."""
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Größe?"}]}, ensure_ascii=False)
    answer = await gateway.http.post("/v1/chat/completions", content=body.encode(), headers={"Content-Type": kind})
    assert answer.status_code == 200
    assert json.loads(fake.requests[0].tensors["messages"][0])[0]["content"] == "Größe?"


async def test_a_payload_of_many_megabytes(gateway: Gateway, fake: FakeTriton) -> None:
    picture = PICTURE + bytes(15_000_000)
    url = f"data:image/png;base64, {base64.encodebytes(picture).decode()}"
    answer = await gateway.chat([{"type": "image_url", "image_url": {"url": url}}])
    assert answer.status_code == 200
    assert fake.requests[0].tensors["image"] == [picture], "a space and line breaks are no part of base64"


async def test_a_form_leaves_the_sampling_alone(gateway: Gateway, fake: FakeTriton) -> None:
    """Model Garden adds penalties to every answer in a form."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert (await gateway.chat(response_format=form)).status_code == 200
    guide = {"guided_decoding_guide_type", "guided_decoding_guide"}
    assert set(fake.requests[0].tensors) == {"messages", "stream", "compact"} | guide
