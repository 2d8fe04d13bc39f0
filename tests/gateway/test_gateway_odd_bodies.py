"""Bodies that no client means to send: each is the client's error, and none the server's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_triton import FakeTriton
from tests.gateway.conftest import Gateway

HI = [{"role": "user", "content": "hi"}]
MESSAGE = {"max_tokens": 5, "messages": HI}


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def nested_choice(levels: int) -> dict[str, Any]:
    choice: dict[str, Any] = {"type": "function", "name": "f"}
    for _ in range(levels):
        choice = {"type": "allowed_tools", "mode": "auto", "tools": [choice]}
    return choice


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": [{"type": ["message"]}]}, "input.0.type"),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": {}}]}]}, "input.0.content.0.type"),
        ("/v1/responses", {"input": [{"type": "reasoning", "content": 5}]}, "input.0.content"),
        ("/v1/responses", {"input": "hi", "metadata": deep(300)}, "metadata"),
        ("/v1/responses", {"input": "hi", "reasoning": {"summary": deep(300)}}, "reasoning"),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "function", "name": "f", "x": deep(300)}]}, "tools"),
        ("/v1/responses", {"input": "hi", "tool_choice": nested_choice(300)}, "tool_choice"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": []}]}]}, "messages.0.content.0"),
        ("/v1/chat/completions", {"messages": HI, "stop": 0}, "stop"),
        ("/v1/chat/completions", {"messages": HI, "best_of": True}, "best_of"),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages.0.tool_calls"),
        ("/v1/chat/completions", {"messages": [{**HI[0], "name": deep(300)}]}, "messages"),
        ("/v1/chat/completions", {"messages": HI, "guided_json": deep(300)}, "guided_json"),
        ("/v1/detokenize", {"tokens": [2**31]}, "tokens.0"),
        ("/v1/count_tokens", {"conversation": [{"role": "user", "content": [{"type": "text"}]}]}, "conversation.0"),
        ("/v1/count_tokens", {"conversation": [{"role": "user", "content": [{"image": "AAAA"}]}]}, "conversation"),
        ("/v1/embeddings", {"model": 5}, "model"),
    ],
)
async def test_a_body_that_nobody_means(gateway: Gateway, path: str, body: dict[str, Any], param: str) -> None:
    refused = await gateway.http.post(path, json=body)
    assert refused.status_code == 400, refused.text
    assert (refused.json()["error"]["param"] or "").startswith(param)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**MESSAGE, "thinking": {"type": ["enabled"]}}, "thinking.type"),
        ({**MESSAGE, "tool_choice": {"type": {}}}, "tool_choice.type"),
        ({**MESSAGE, "tool_choice": {}}, "tool_choice.type"),
        ({**MESSAGE, "messages": [{"role": "user", "content": [{"type": []}]}]}, "messages.0.content.0.type"),
        ({**MESSAGE, "messages": [{"role": [], "content": "a"}]}, "messages.0.role"),
        (
            {
                "max_tokens": 5,
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": deep(300)}]}
                ],
            },
            "messages.0.content.0.input",
        ),
    ],
)
async def test_a_message_that_nobody_means(gateway: Gateway, body: dict[str, Any], field: str) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refused = await gateway.http.post(path, json=body)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["message"].startswith(field)


@pytest.mark.parametrize("charset", ["utf-7", "raw_unicode_escape", "utf-16", "no-such-charset"])
async def test_a_form_in_another_charset(gateway: Gateway, charset: str) -> None:
    text = {"utf-7": b"+2AA-", "raw_unicode_escape": rb"\ud800"}.get(charset, b"ab")
    lines = [b"--x", b'Content-Disposition: form-data; name="prompt"', b"", text]
    lines += [b"--x", b'Content-Disposition: form-data; name="file"; filename="a.wav"', b"", b"RIFF", b"--x--", b""]
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    answer = await gateway.http.post(
        "/v1/audio/transcriptions", content=b"\r\n".join(lines), headers={"Content-Type": kind}
    )
    assert answer.status_code < 500, answer.text


async def test_the_detail_of_an_image_item_reaches_the_model(gateway: Gateway, fake: FakeTriton) -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    body = {"input": [{"role": "user", "content": [part]}]}
    assert (await gateway.http.post("/v1/responses", json=body)).status_code == 200
    assert b'"max_pixels":262144' in fake.requests[0].tensors["messages"][0]
