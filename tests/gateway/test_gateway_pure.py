"""Rung 1: pure functions, no sockets."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from gateway.answers.chat_chunks import ChunkWriter
from gateway.answers.replies import Head
from gateway.answers.usage import Usage
from gateway.errors import (
    ContextOverflow,
    GatewayError,
    InternalFault,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    ServerGone,
    Unavailable,
    Unsupported,
    UpstreamTimeout,
    from_wire,
)
from gateway.limits import Admission
from gateway.media import media_bytes
from gateway.schemas.chat import read_chat_request
from gateway.schemas.messages import Limits, read_prompt
from gateway.settings import SettingError, read_settings
from gateway.sse import error_event
from gateway.tensors import ChatOutput, chat_output, encode, transcription_output

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("text", "kind", "param", "code"),
    [
        ("[INVALID_ARGUMENT] stop_words: empty", InvalidRequest, "stop", "invalid_value"),
        ("[INVALID_ARGUMENT] image: not a picture", InvalidRequest, "messages", "invalid_value"),
        ("[UNIMPLEMENTED] video: takes no videos", Unsupported, "messages", "unsupported"),
        ("[OUT_OF_RANGE] max_tokens: too long", ContextOverflow, "max_tokens", "context_length_exceeded"),
        ("[UNIMPLEMENTED] no images here", Unsupported, None, "unsupported"),
        ("[RESOURCE_EXHAUSTED] the queue is full", Overloaded, None, "rate_limit_exceeded"),
        ("[UNAVAILABLE] vision: gone", Unavailable, "vision", "unavailable"),
        ("[DEADLINE_EXCEEDED] late", UpstreamTimeout, None, "deadline_exceeded"),
        (
            "in ensemble 'x', [INVALID_ARGUMENT] audio: bad\n\nAt:\n  /b.py(3)",
            InvalidRequest,
            "file",
            "invalid_value",
        ),
        ("Stub process 'llm_0' is not healthy.", ServerGone, None, "model_unavailable"),
        ("Request for unknown model: 'llm' has no available versions", ServerGone, None, "model_unavailable"),
    ],
)
def test_error_text_becomes_openai_error(text: str, kind: type[GatewayError], param: str | None, code: str) -> None:
    error = from_wire(text)
    assert (type(error), error.param, error.code) == (kind, param, code)
    assert "\n" not in str(error) and "[" not in str(error)


@pytest.mark.parametrize("text", ["[INTERNAL] /secret/path.py broke", "Traceback: /secret/path.py", ""])
def test_faults_have_a_fixed_text(text: str) -> None:
    error = from_wire(text)
    assert isinstance(error, InternalFault)
    assert str(error) == str(InternalFault())
    assert set(error.body["error"]) == {"message", "type", "param", "code"}


def test_errors_that_pass_say_when_to_come_back() -> None:
    assert int(Overloaded("x").headers["Retry-After"]) >= 1
    assert int(Unavailable("x").headers["Retry-After"]) >= 1
    assert InvalidRequest("x").headers == {}


@pytest.mark.parametrize(
    "reference",
    [
        BASE64,
        f"data:image/png;base64,{BASE64}",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;name=a.png;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f" data:text/html ; base64 , {BASE64}\n",
        "data:image/png;base64," + "\n".join(BASE64[i : i + 60] for i in range(0, len(BASE64), 60)),
        "data:image/png;base64," + BASE64.replace("=", "%3D"),
    ],
)
def test_image_forms(reference: str) -> None:
    assert media_bytes(reference, "p", 1000) == PNG


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("https://example.com/a.png", Unsupported),
        ("file:///etc/passwd", Unsupported),
        ("data:image/png,abc", InvalidRequest),
        ("data:image/png;base64,@@@@", InvalidRequest),
        ("data:image/png;base64,", InvalidRequest),
        ("not base64", InvalidRequest),
        ("é" * 8, InvalidRequest),
        ("data:image/png;base64," + "A" * 4000, PayloadTooLarge),
    ],
)
def test_bad_images_name_the_part(reference: str, kind: type[GatewayError]) -> None:
    with pytest.raises(kind) as caught:
        media_bytes(reference, "messages.0", 1000)
    assert caught.value.param == "messages.0"
    assert len(str(caught.value)) < 200


def test_tensors_have_the_contracts_types() -> None:
    values: dict[str, Any] = {
        "messages": "hé",
        "image": [b"a", b"bcd"],
        "max_tokens": 5,
        "seed": 2**63,
        "top_p": 0.5,
        "stream": True,
    }
    tensors = {tensor.name: tensor for tensor in encode(values)}
    assert tensors["messages"].raw == b"\x03\x00\x00\x00h\xc3\xa9"
    assert (tensors["image"].shape, tensors["image"].raw) == ((1, 2), b"\x01\x00\x00\x00a\x03\x00\x00\x00bcd")
    assert tensors["max_tokens"][1:] == ("INT32", (1, 1), b"\x05\x00\x00\x00")
    assert tensors["seed"].raw == struct.pack("<Q", 2**63)
    assert tensors["top_p"].raw == struct.pack("<f", 0.5)
    assert tensors["stream"][1:] == ("BOOL", (1, 1), b"\x01")


def test_outputs_are_read_and_missing_ones_are_empty() -> None:
    output = chat_output({"text_output": b"\x02\x00\x00\x00hi", "num_output_tokens": struct.pack("<i", 3)})
    assert output == ChatOutput(0, "hi", "", "", 0, 3, 0, 0, b"", b"")
    assert transcription_output({"duration": struct.pack("<f", 1.5)}).duration == 1.5


def test_chunks_are_json_whatever_the_text() -> None:
    writer = ChunkWriter(Head("id", 1, 'm"odel').event("chat.completion.chunk"), 0)
    for text in ('"', "\n", "\u2028", "é😀", "\x00"):
        chunk = json.loads(writer.content(text).removeprefix(b"data: "))
        assert chunk["choices"][0]["delta"] == {"content": text}
        assert writer.content(text).count(b"\n") == 2
    logprobs = json.loads(writer.content("a", b'[{"token":"a"}]').removeprefix(b"data: "))["choices"][0]["logprobs"]
    assert logprobs == {"content": [{"token": "a"}]}


def test_usage_counts_the_prompt_once() -> None:
    usage = Usage()
    for _ in range(3):
        usage.add(ChatOutput(0, "", "", "", 10, 2, 4, 1, b"", b""))
    assert usage.body == {
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4, "image_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_times_are_those_of_the_slowest_choice() -> None:
    usage = Usage(num_sequences=2)
    for choice, total in ((0, 1.25), (1, 2.25)):
        timings = f'{{"prepare_s":0.1,"first_token_s":0.25,"total_s":{total}}}'.encode()
        usage.add(ChatOutput(choice, "", "stop", "", 10, 5, 0, 0, b"", timings))
    assert usage.body["prompt_tokens"] == 10
    # Ten tokens, of which the first of each choice was there when the time of decoding began.
    expected = {"processing_time": 2.25, "first_token_time": 0.25, "tokens_per_second": 4.0}
    assert {name: usage.body[name] for name in expected} == expected
    usage = Usage()
    usage.add(ChatOutput(0, "", "stop", "", 1, 1, 0, 0, b"", b'{"first_token_s":1,"total_s":1}'))
    assert usage.body["tokens_per_second"] is None


def test_error_event_is_one_event() -> None:
    event = error_event(Unavailable("two\nlines"))
    assert event.startswith(b'data: {"error":{') and event.count(b"\n") == 2


def test_admission_counts_and_refuses() -> None:
    admission = Admission(1)
    with admission.acquire() as permit:
        assert repr(admission) == "<Admission 1/1>"
        with pytest.raises(Overloaded):
            admission.acquire()
        permit.release()
    assert repr(admission) == "<Admission 0/1>"


def test_settings_prefer_the_command_line() -> None:
    settings = read_settings(["--port", "9"], {"TRIMODAL_PORT": "8", "TRIMODAL_STREAM_IDLE_S": "2.5"})
    assert (settings.port, settings.stream_idle_s, settings.host) == (9, 2.5, "127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "environment", "key", "value"),
    [
        (["--port", "many"], {}, "port", "many"),
        (["--port", "70000"], {}, "port", "70000"),
        ([], {"TRIMODAL_MAX_CONCURRENCY": "0"}, "max_concurrency", "0"),
        (["--triton-grpc", "localhost"], {}, "triton_grpc", "localhost"),
        (["--triton-grpc", "a:1, b"], {}, "triton_grpc", "b"),
        (["--triton-grpc", ","], {}, "triton_grpc", ","),
        (["--triton-metrics", "a:1,:2"], {}, "triton_metrics", ":2"),
        (["--log-level", "loud"], {}, "log_level", "loud"),
        (["--keep-alive-s", "nan"], {}, "keep_alive_s", "nan"),
    ],
)
def test_bad_settings_name_key_and_value(
    arguments: list[str], environment: dict[str, str], key: str, value: str
) -> None:
    with pytest.raises(SettingError, match=rf"^{key}: '?{value}"):
        read_settings(arguments, environment)


IMAGE_PATH = "messages.0.content.0.image_url.url"
VIDEO_PATH = "messages.0.content.0."


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "0.5"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_value"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "invalid_value"),
        ({"logit_bias": {"word": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"tools": []}, "tools", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", "invalid_value"),
        ({"tool_choice": "often"}, "tool_choice", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported"),
        ({"function_call": "auto"}, "function_call", "unsupported"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        ({"structured_outputs": {"yaml": 1}}, "structured_outputs.yaml", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"cache_salt": ""}, "cache_salt", "invalid_value"),
        ({"priority": 1.5}, "priority", "invalid_value"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids", "unsupported"),
        ({"echo": True}, "echo", "unsupported"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message", "invalid_value"),
        ({"content": [{"type": "file"}]}, "messages.0.content.0.type", "unsupported"),
        ({"content": [{"type": "video_url"}]}, VIDEO_PATH + "video_url", "invalid_value"),
        ({"content": [{"type": "video_url", "video_url": "AA==", "fps": 0}]}, VIDEO_PATH + "fps", "invalid_value"),
        ({"content": [{"type": "video_url", "video_url": "AAAA"}]}, "messages", "invalid_value"),
        ({"content": [{"type": "text"}]}, "messages.0.content.0.text", "invalid_value"),
        ({"content": [{"type": "image_url", "image_url": {"url": "http://h/x.png"}}]}, IMAGE_PATH, "unsupported"),
        ({"content": [{"type": "image_url", "image_url": {}}]}, IMAGE_PATH, "invalid_value"),
        ({"model": "demo", "content": [{"type": "image_url"}]}, "messages.0.content.0.image_url", "invalid_value"),
    ],
)
def test_bad_requests_name_the_field(fields: dict[str, Any], param: str, code: str) -> None:
    body = {"messages": [{"role": "user", "content": fields.get("content", "hi")}], **fields}
    with pytest.raises(InvalidRequest) as caught:
        read_prompt(read_chat_request(json.dumps(body).encode()).messages, Limits(16, 1000), Limits(0, 1000))
    assert (caught.value.param, caught.value.code) == (param, code)
    assert str(caught.value)
