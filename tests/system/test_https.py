"""`serve` with a certificate: what reaches it, and the routes that the other files leave out, all of it over HTTPS."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme

from tests.conftest import ROOT, System, serve
from tests.pictures import draw, part

pytestmark = pytest.mark.triton

CHECKPOINT = str(ROOT / "demo_models/demo-vl")
USER: Any = [{"role": "user", "content": "Who are you?"}]
INFERENCE = "/api/v1/inference"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[System]:
    """Serves HTTPS, and may load the demo model anew."""
    folder = tmp_path_factory.mktemp("https")
    made = authority.issue_cert("127.0.0.1")
    certificate, key = folder / "server.pem", folder / "server.key"
    made.cert_chain_pems[0].write_to_path(str(certificate))
    made.private_key_pem.write_to_path(str(key))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRIMODAL_LOADABLE_MODELS", f"{Path(CHECKPOINT).parent}")
        with serve(folder, "--tls-cert-file", str(certificate), "--tls-key-file", str(key)) as running:
            yield running


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def web(house: System, trusting: ssl.SSLContext) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"https://{house.http}", verify=trusting, timeout=60, trust_env=False) as opened:
        yield opened


@pytest.fixture
def client(house: System, trusting: ssl.SSLContext) -> Iterator[openai.OpenAI]:
    transport = openai.DefaultHttpxClient(verify=trusting, trust_env=False)
    url = f"https://{house.http}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=transport) as opened:
        yield opened


def chat(client: openai.OpenAI, content: Any = "Who are you?") -> str:
    messages: Any = [{"role": "user", "content": content}]
    answer = client.chat.completions.create(model="demo-vl", messages=messages, temperature=0)
    return answer.choices[0].message.content or ""


def test_only_who_trusts_the_certificate_is_served(house: System, client: openai.OpenAI) -> None:
    assert f"https://{house.http}/v1" in house.log.read_text(), "what it says to try"
    assert "red circle" in chat(client, [part(draw(("red", "circle"))), {"type": "text", "text": "What do you see?"}])
    with (
        openai.OpenAI(base_url=f"https://{house.http}/v1", api_key="none", max_retries=0) as stranger,
        pytest.raises(openai.APIConnectionError) as caught,
    ):
        chat(stranger)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.__cause__)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{house.http}/liveness", trust_env=False)


def test_responses_say_what_a_chat_says(client: openai.OpenAI) -> None:
    fields: Any = {"model": "demo-vl", "input": "Who are you?", "temperature": 0}
    answer = client.responses.create(**fields)
    assert answer.output_text == chat(client)
    assert answer.usage is not None and answer.usage.total_tokens > answer.usage.input_tokens > 0
    with client.responses.stream(**fields) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == answer.output_text and len(deltas) > 5
    with pytest.raises(openai.BadRequestError, match="store"):
        client.responses.create(**fields, store=True)


def test_generate_says_what_a_completion_says(client: openai.OpenAI, web: httpx.Client) -> None:
    fields: Any = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    completion = client.completions.create(model="demo-vl", **fields)
    answer = web.post(f"{INFERENCE}/generate", json=fields).json()
    assert (answer["text"], answer["finish_reason"]) == (
        completion.choices[0].text,
        completion.choices[0].finish_reason,
    )
    assert completion.usage is not None and answer["usage"]["total_tokens"] == completion.usage.total_tokens
    streamed = web.post(f"{INFERENCE}/generate", json=fields | {"stream": True}).text
    *events, done = [block.removeprefix("data: ") for block in streamed.strip().split("\n\n")]
    assert done == "[DONE]"
    assert "".join(json.loads(event)["text"] for event in events) == answer["text"]


def test_an_image_that_is_none(client: openai.OpenAI) -> None:
    """A page on vLLM shows `"url": "data"`, which is base64 of three bytes."""
    for url in ("data", "data:image/png;base64,bm8="):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, [{"type": "image_url", "image_url": {"url": url}}])
        assert caught.value.param == "messages"
    assert chat(client), "nobody else is harmed"


def test_the_model_is_unloaded_and_loaded(client: openai.OpenAI, web: httpx.Client) -> None:
    before = chat(client)
    status = web.get(f"{INFERENCE}/status").json()
    assert status["is_loaded"] and status["model_info"]["id"] == "demo-vl"
    assert web.post(f"{INFERENCE}/load", json={"model_path": CHECKPOINT}).status_code == 409
    endless: Any = {"extra_body": {"ignore_eos": True}, "max_tokens": 300}
    stream = iter(client.chat.completions.create(model="demo-vl", messages=USER, stream=True, **endless))
    next(stream)
    assert web.post(f"{INFERENCE}/unload").json()["success"] is True
    begun = end_of(stream)
    status = web.get(f"{INFERENCE}/status").json()
    assert not status["is_loaded"] and web.get("/readiness").status_code == 503
    with pytest.raises((openai.NotFoundError, openai.InternalServerError)):
        chat(client)
    assert load(web, quantization="awq")["job"]["status"] == "failed"
    job = web.get(f"{INFERENCE}/status").json()["job"]
    assert "'quantization'" in job["error"] and "'awq'" in job["error"]
    status = load(web, max_model_len=1024, served_model_name="demo-vl")
    assert status["job"]["status"] == "loaded" and status["model_info"]["max_model_len"] == 1024
    assert chat(client) == before
    assert begun == "length", "who had begun is let end"


def end_of(stream: Iterator[Any]) -> str:
    """The finish_reason, or the error that came instead."""
    try:
        return str([*stream][-1].choices[0].finish_reason)
    except openai.APIError as error:
        return error.message


def load(web: httpx.Client, **options: Any) -> Any:
    """The status when the job has ended."""
    accepted = web.post(f"{INFERENCE}/load", json={"model_path": CHECKPOINT, **options})
    assert accepted.status_code == 202, accepted.text
    for _ in range(600):
        status = web.get(f"{INFERENCE}/status").json()
        if not status["loading"]:
            return status
        time.sleep(0.2)
    raise AssertionError(status)
