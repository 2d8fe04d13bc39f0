"""/openapi.json is true: requests that it allows, requests that it does not, and every answer are as it says.

The requests are drawn by schemathesis from the document itself; the gateway is the real one, on real sockets, in front
of a scripted Triton. A body has dozens of fields that exclude each other, so each run draws a few of them.
"""

from __future__ import annotations

import asyncio
import copy
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks
from tritonclient.grpc import service_pb2 as pb

from gateway.app import create_app
from gateway.settings import Settings
from tests.fake_triton import FakeTriton, Received, token, transcript
from tests.gateway.conftest import StartGateway, running_gateway
from tests.gateway.test_gateway_stream import events

DOCUMENT = create_app(Settings()).openapi()
OPERATIONS = sorted((path, method) for path, operations in DOCUMENT["paths"].items() for method in operations)
# What JSON Schema cannot say: the content of a text, and what two values have to do with each other.
BEYOND = (
    "base64",
    "data URL",
    "URLs are",
    "is empty",
    "not valid JSON",
    "same name",
    "parts are allowed",
    "token ids",
    "least 1 item",
    "not counted",
)
TOKEN = '{"token": "a", "logprob": -0.5, "bytes": [97]}'
LOGPROBS = f'[{TOKEN[:-1]}, "top_logprobs": [{TOKEN}]}}]'
# What a form cannot tell apart, its document can: one text from a list of one, and a number from its digits.
FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations")
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# A failing request is told as it was drawn: to look for a shorter one takes minutes.
SETTINGS = settings(
    derandomize=True, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
# Fields that come in several forms, each with what must stand beside it.
FORMED: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/chat/completions", "messages", {}),
    ("/v1/chat/completions", "stop", {}),
    ("/v1/chat/completions", "logit_bias", {}),
    ("/v1/chat/completions", "guided_json", {}),
    ("/v1/completions", "prompt", {}),
    ("/api/v1/inference/generate", "prompt", {}),
    ("/v1/responses", "input", {}),
    ("/v1/responses", "tools", {}),
    ("/v1/responses", "text", {}),
    ("/v1/messages", "messages", {"max_tokens": 5}),
    ("/v1/messages", "system", {"max_tokens": 5}),
    ("/v1/messages", "tools", {"max_tokens": 5}),
    ("/v1/messages", "thinking", {"max_tokens": 5}),
    ("/v1/messages", "output_config", {"max_tokens": 5}),
    ("/v1/count_tokens", "conversation", {}),
]


class StaysLoaded(FakeTriton):
    """Agrees to unload, for other routes are asked afterwards."""

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        return pb.RepositoryModelUnloadResponse()


def answer(received: Received) -> list[Any]:
    """What a model with every feature says: it thinks, speaks and calls, in each of its choices."""
    if received.model == "tokenizer":
        return [{"ids": [1, 2, 3], "text": "said"}]
    if received.model == "whisper":
        return [transcript("One. ", "", logprobs=f"[{TOKEN}]"), transcript("Two.", logprobs=f"[{TOKEN}]")]
    said = ["why</think>Hello", ' <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>']
    return [
        token(text, finish, sequence_index=index, logprobs=LOGPROBS)
        for index in range(received.tensors.get("num_return_sequences", [1])[0])
        for text, finish in zip(said, ("", "stop"), strict=True)
    ]


async def serve(addresses: queue.Queue[str], ended: asyncio.Event) -> None:
    fake = StaysLoaded()
    fake.script = answer
    more = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3", "input_modalities": "text,image,video"}
    fake.entries["llm"].parameters |= more
    await fake.start()
    settings = Settings(port=0, triton_metrics="", triton_grpc=fake.endpoint, loadable_models="org/demo")
    async with running_gateway(settings) as gateway:
        addresses.put(gateway.base_url)
        await ended.wait()
    await fake.stop()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """A gateway in a thread: schemathesis knows no asyncio."""
    addresses: queue.Queue[str] = queue.Queue()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[serve(addresses, ended)])
    thread.start()
    yield addresses.get(timeout=30)
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


def operation_of(path: str, method: str, fields: Sequence[str] | None = None) -> APIOperation[Any, Any, Any, Any]:
    """The operation, with only these of the optional fields of its body."""
    document = copy.deepcopy(DOCUMENT)
    if fields is not None:
        schema = body_of(document, path, method)
        kept = {*schema.get("required", ()), *fields}
        schema["properties"] = {name: field for name, field in schema["properties"].items() if name in kept}
    operation: APIOperation[Any, Any, Any, Any] = schemathesis.openapi.from_dict(document)[path][method.upper()]
    return operation


def body_of(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    """The schema of a body; empty where there is none."""
    content = document["paths"][path][method].get("requestBody", {}).get("content", {})
    reference = next((media["schema"]["$ref"] for media in content.values()), "")
    schema: dict[str, Any] = document["components"]["schemas"].get(reference.rpartition("/")[2], {})
    return schema


def check_answer(case: Case, response: Any) -> None:
    """No fault of ours, and of the statuses, bodies and events only those that are in the document."""
    status = str(response.status_code)
    responses = DOCUMENT["paths"][case.path][case.method.lower()]["responses"]
    assert response.status_code < 500 or status == "503", f"{response.text} to {case.body}"
    case.validate_response(response, checks=CHECKS)
    if response.headers["content-type"][0].startswith("text/event-stream"):
        item = responses[status]["content"]["text/event-stream"]["itemSchema"]
        data = item["properties"]["data"]
        schema = data.get("anyOf", [data])[-1]["contentSchema"] | {"components": DOCUMENT["components"]}
        for event in events(response.text):
            if event != "[DONE]":
                jsonschema.validate(event, schema)


def fuzz(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, num: int, base_url: str) -> list[int]:
    """Asks `num` times; the statuses of the answers."""
    statuses = []

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(SETTINGS, max_examples=num)
    def ask(case: Case) -> None:
        response = case.call(base_url=base_url)
        check_answer(case, response)
        if mode is GenerationMode.NEGATIVE and case.path not in FORMS:
            case.validate_response(response, checks=[checks.negative_data_rejection])
        statuses.append(response.status_code)

    ask()
    return statuses


def selections(path: str, method: str, num: int) -> list[list[str] | None]:
    """`num` times a few optional fields of the body, `stream` always among them; the whole where they are few."""
    names = sorted(body_of(DOCUMENT, path, method).get("properties", ()))
    if len(names) <= 5:
        return [None]
    drawn = random.Random(path)
    return [["stream", *drawn.sample(names, 3)] for _ in range(num)]


def check_route(path: str, method: str, base_url: str, num_selections: int, num_examples: int) -> None:
    for fields in selections(path, method, num_selections):
        operation = operation_of(path, method, fields)
        fuzz(operation, GenerationMode.POSITIVE, num_examples, base_url)
        if operation.body:
            fuzz(operation, GenerationMode.NEGATIVE, num_examples, base_url)


def test_every_route_is_described() -> None:
    assert len(OPERATIONS) > 25
    for path, method in OPERATIONS:
        operation = DOCUMENT["paths"][path][method]
        assert operation["summary"] and operation["description"] and operation["tags"], path
        assert ("requestBody" in operation) == (method == "post" and not path.endswith("/unload")), path
        assert operation["security"] == []
        assert "500" in operation["responses"] and "422" not in operation["responses"], path


async def test_where_there_are_keys_the_document_wants_one(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(api_keys="tm-one-key-of-the-tests")
    assert (await gateway.http.get("/openapi.json")).status_code == 401
    paths = (await gateway.http.get("/openapi.json", headers={"x-api-key": "tm-one-key-of-the-tests"})).json()["paths"]
    chat, liveness = paths["/v1/chat/completions"]["post"], paths["/liveness"]["get"]
    assert chat["security"] == [{"bearer": []}, {"x-api-key": []}] and liveness["security"] == []
    assert "401" in chat["responses"] and "401" not in liveness["responses"]
    assert "x-ratelimit-remaining-tokens" in chat["responses"]["200"]["headers"]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_keeps_its_word(path: str, method: str, base_url: str) -> None:
    check_route(path, method, base_url, num_selections=2, num_examples=4)


@pytest.mark.parametrize(("path", "field", "more"), FORMED)
def test_what_the_document_allows_is_taken(path: str, field: str, more: dict[str, Any], base_url: str) -> None:
    operation = operation_of(path, "post", [field])
    required = body_of(DOCUMENT, path, "post")["required"]

    @given(case=operation.as_strategy())
    @settings(SETTINGS, max_examples=8)
    def ask(case: Case) -> None:
        case.body = {name: value for name, value in case.body.items() if name in (field, *required)} | more
        response = case.call(base_url=base_url)
        assert response.status_code == 200 or any(words in response.text for words in BEYOND), response.text

    ask()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_keeps_its_word_for_long(path: str, method: str, base_url: str) -> None:
    check_route(path, method, base_url, num_selections=12, num_examples=10)
