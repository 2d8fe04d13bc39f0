"""API keys: who is let in, to what, how often; and that no route is forgotten."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import websockets
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.app import create_app
from gateway.keys import ApiKey, KeyRing, digest_of, read_keys
from gateway.limits import Caller, TokenBucket
from gateway.settings import SettingError, Settings, read_settings
from launcher.cli import main
from tests.fake_triton import FakeTriton, Hang, token
from tests.gateway.conftest import Gateway, StartGateway

KEY = "tm-one-key-of-the-tests"
OTHER = "tm-another-key-of-the-tests"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def key_file(tmp_path: Path) -> Any:
    def write(**limits: Any) -> str:
        lines = [{"name": "one", "sha256": digest_of(KEY), **limits}, {"name": "other", "sha256": digest_of(OTHER)}]
        path = tmp_path / "keys.jsonl"
        path.write_text("# keys\n\n" + "\n".join(map(json.dumps, lines)))
        return str(path)

    return write


async def chat(gateway: Gateway, key: str = KEY, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return await gateway.http.post("/v1/chat/completions", json=body, headers=bearer(key))


def flat(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    """FastAPI keeps an included router as one route."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else flat(inner.routes)


def all_routes() -> list[tuple[str, str]]:
    routes = flat(create_app(Settings()).routes)
    return [(method, route.path) for route in routes if isinstance(route, Route) for method in route.methods or ()]


@pytest.mark.parametrize("sent", [{}, bearer("tm-wrong-key-of-the-tests"), {"Authorization": f"Basic {KEY}"}])
async def test_every_route_but_liveness_wants_a_key(start_gateway: StartGateway, sent: dict[str, str]) -> None:
    gateway = await start_gateway(api_keys=KEY)
    routes = all_routes()
    assert ("POST", "/v1/chat/completions") in routes and ("GET", "/metrics") in routes
    # The answer to HEAD has no body to look at.
    routes = [(method, path) for method, path in routes if method != "HEAD"]
    for method, path in [*routes, ("GET", "/no/such/route"), ("GET", "//liveness"), ("GET", "/liveness/")]:
        response = await gateway.http.request(method, path, headers=sent)
        if path == "/liveness":
            assert response.status_code == 200
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
        error = response.json()["error"]
        if path.startswith("/v1/messages"):
            assert error["type"] == "authentication_error" and set(error) == {"message", "type"}
            continue
        assert error["type"] == "invalid_request_error" and error["code"] == "invalid_api_key"
        assert set(error) == {"message", "type", "param", "code"}


async def test_a_key_opens_every_route(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(api_keys=f"{OTHER}, {KEY}")
    for method, path in all_routes():
        assert (await gateway.http.request(method, path, headers={"x-api-key": KEY})).status_code != 401
    async with openai.AsyncOpenAI(base_url=gateway.base_url + "/v1", api_key=OTHER, max_retries=0) as client:
        assert (await client.models.list()).data
    async with openai.AsyncOpenAI(base_url=gateway.base_url + "/v1", api_key="tm-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_web_sockets_want_a_key(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(api_keys=KEY)
    paths = [route.path for route in flat(create_app(Settings()).routes) if isinstance(route, WebSocketRoute)]
    assert "/v1/realtime" in paths
    for path in paths:
        url = gateway.base_url.replace("http", "ws") + path
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, proxy=None)
        assert refused.value.response.status_code == 401
        async with websockets.connect(url, proxy=None, additional_headers=bearer(KEY)) as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"
        offers: Any = ["realtime", f"openai-insecure-api-key.{KEY}"]
        async with websockets.connect(url, proxy=None, subprotocols=offers) as socket:
            assert json.loads(await socket.recv())["type"] == "session.created"


async def test_routes_can_be_opened(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(api_keys=KEY, open_routes="/liveness, /metrics")
    assert (await gateway.http.get("/metrics")).status_code == 200
    assert (await gateway.http.get("/health")).status_code == 401


async def test_requests_per_minute(start_gateway: StartGateway, key_file: Any) -> None:
    gateway = await start_gateway(api_key_file=key_file(requests_per_minute=2))
    first = await chat(gateway)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert (await chat(gateway)).status_code == 200
    refused = await chat(gateway)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert (await chat(gateway, OTHER)).status_code == 200, "one key's limit is not another's"


async def test_tokens_per_minute(start_gateway: StartGateway, key_file: Any) -> None:
    gateway = await start_gateway(api_key_file=key_file(tokens_per_minute=10))
    first = await chat(gateway)
    assert first.json()["usage"]["total_tokens"] == 9
    assert (first.headers["x-ratelimit-limit-tokens"], first.headers["x-ratelimit-remaining-tokens"]) == ("10", "1")
    # What an answer costs is known only afterwards, and may overdraw.
    second = await chat(gateway)
    assert (second.status_code, second.headers["x-ratelimit-remaining-tokens"]) == (200, "0")
    refused = await chat(gateway)
    assert refused.status_code == 429 and "10 tokens per minute" in refused.text


async def test_refusals_of_the_messages_route_are_anthropics(start_gateway: StartGateway, key_file: Any) -> None:
    gateway = await start_gateway(api_key_file=key_file(requests_per_minute=1))
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key="tm-wrong", max_retries=0) as nobody:
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            await nobody.messages.create(model="demo", **body)
    async with anthropic.AsyncAnthropic(base_url=gateway.base_url, api_key=KEY, max_retries=0) as client:
        await client.messages.create(model="demo", **body)
        with pytest.raises(anthropic.RateLimitError, match="rate_limit_error") as limited:
            await client.messages.create(model="demo", **body)
    assert int(limited.value.response.headers["retry-after"]) > 1
    for method, path, status, kind in (
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
    ):
        refused = await gateway.http.request(method, path, headers=bearer(OTHER))
        assert (refused.status_code, refused.json()["type"]) == (status, "error")
        assert refused.json()["error"]["type"] == kind


async def test_a_key_file_that_changes_is_read_again(start_gateway: StartGateway, key_file: Any) -> None:
    path = key_file(requests_per_minute=1)
    gateway = await start_gateway(api_key_file=path)
    assert (await chat(gateway)).status_code == 200
    lines = Path(path).read_text()
    Path(path).write_text("\n".join(line for line in lines.splitlines() if "other" not in line))
    while (await chat(gateway, OTHER)).status_code != 401:
        await asyncio.sleep(0.1)
    assert (await chat(gateway)).status_code == 429, "what a key has used it has used"


def test_a_ring_of_keys(key_file: Any, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    path = Path(key_file())
    ring = KeyRing(Settings(api_key_file=str(path), api_keys="tm-a-key-of-the-environment"), lambda: now[0])
    before = ring.current()
    assert [key.name for key in before] == ["one", "other", "environment-1"]
    lines = path.read_text()
    path.write_text("")
    assert ring.current() is before, "the file is looked at once a second"
    now[0] += 1
    assert [key.name for key in ring.current()] == ["environment-1"]
    path.write_text(lines + "\nno key")
    now[0] += 1
    assert [key.name for key in ring.current()] == ["environment-1"]
    assert "stay as they were" in caplog.text and "no key" not in caplog.text
    path.unlink()
    now[0] += 1
    assert [key.name for key in ring.current()] == ["environment-1"]
    path.write_text(lines)
    now[0] += 1
    assert ring.current() == before


async def test_only_an_admin_loads_and_unloads(start_gateway: StartGateway, key_file: Any) -> None:
    gateway = await start_gateway(api_key_file=key_file(admin=True), loadable_models="org/demo")
    for path, body in (("load", {"model_path": "org/demo"}), ("unload", None)):
        refused = await gateway.http.post(f"/api/v1/inference/{path}", json=body, headers=bearer(OTHER))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
        assert KEY not in refused.text and "other" in refused.text
    assert (await gateway.http.get("/api/v1/inference/status", headers=bearer(OTHER))).json()["is_loaded"]
    assert (await gateway.http.post("/api/v1/inference/unload", headers=bearer(KEY))).status_code == 200
    assert not (await gateway.http.get("/api/v1/inference/status", headers=bearer(OTHER))).json()["is_loaded"]


async def test_requests_at_once(start_gateway: StartGateway, key_file: Any, fake: FakeTriton) -> None:
    fake.script = lambda received: [token("a"), Hang()]
    gateway = await start_gateway(api_key_file=key_file(max_concurrency=1))
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(KEY)) as response:
        await anext(response.aiter_text())
        refused = await chat(gateway)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    await fake.requests[0].cancelled.wait()
    fake.script = lambda received: [token("a", "stop")]
    for _ in range(100):
        if (await chat(gateway)).status_code == 200:
            break
    else:
        pytest.fail("the place was never given back")


async def test_models_of_a_key(start_gateway: StartGateway, key_file: Any) -> None:
    gateway = await start_gateway(api_key_file=key_file(models=["org/demo-speech"]))
    refused = await chat(gateway, model="demo")
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
    listed = (await gateway.http.get("/v1/models", headers=bearer(KEY))).json()["data"]
    assert [card["id"] for card in listed] == ["org/demo-speech"]
    assert (await gateway.http.get("/v1/models/demo", headers=bearer(KEY))).status_code == 404
    assert (await chat(gateway, OTHER, model="demo")).status_code == 200


async def test_an_adapter_is_for_keys_that_name_it(
    start_gateway: StartGateway, key_file: Any, fake: FakeTriton
) -> None:
    fake.entries["llm"].parameters["lora_adapters"] = '{"legal": "/adapters/legal"}'
    gateway = await start_gateway(api_key_file=key_file(models=["demo-vl"]))
    assert [(await chat(gateway, model=name)).status_code for name in ("demo", "legal")] == [200, 404]
    assert (await chat(gateway, OTHER, model="legal")).status_code == 200


async def test_a_key_has_its_own_cache_salt(start_gateway: StartGateway, key_file: Any, fake: FakeTriton) -> None:
    gateway = await start_gateway(api_key_file=key_file())
    for key in (KEY, KEY, OTHER):
        await chat(gateway, key)
    await chat(gateway, KEY, cache_salt="shared")
    one, again, other, said = [
        json.loads(received.tensors["sampling_parameters"][0])["cache_salt"] for received in fake.requests
    ]
    assert one == again != other
    assert said == "shared"
    assert KEY not in one and digest_of(KEY) not in one


async def test_without_keys_nothing_is_salted(gateway: Gateway, fake: FakeTriton) -> None:
    await gateway.chat()
    assert "sampling_parameters" not in fake.requests[0].tensors


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::1", False)])
def test_an_open_door_is_told(host: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        create_app(Settings(host=host))
        create_app(Settings(host=host, api_keys=KEY))
    assert len([record for record in caplog.records if "no API keys" in record.message]) == warned


def test_a_bucket_fills_evenly() -> None:
    now = [0.0]
    bucket = TokenBucket(60, lambda: now[0])
    bucket.take(70)
    assert (bucket.level, bucket.seconds_until(1)) == (-10, 11)
    now[0] = 12.0
    assert (bucket.level, bucket.seconds_until(1)) == (2, 0)
    now[0] = 1000.0
    assert bucket.level == 60


@pytest.mark.parametrize(("used", "told"), [(0, "0ms"), (1, "600ms"), (50, "30s"), (600, "6m0s")])
def test_resets_are_written_as_at_openai(used: int, told: str) -> None:
    caller = Caller(ApiKey(name="a", sha256="0" * 64, tokens_per_minute=100))
    caller.spend(used)
    reset = caller.rate_headers()["x-ratelimit-reset-tokens"]
    assert reset == told or (told == "6m0s" and reset == "5m59s") or (told == "30s" and reset.startswith("30"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"name": "a"}', "keys.jsonl:1.*sha256"),
        (f'{{"name": "a", "sha256": "{KEY}"}}', "sha256"),
        ('{"name": "a b", "sha256": "' + "0" * 64 + '"}', "name"),
        ('{"name": "a", "sha256": "' + "0" * 64 + '", "rpm": 3}', "rpm"),
        ('{"name": "a", "sha256": "' + "0" * 64 + '", "tokens_per_minute": 0}', "tokens_per_minute"),
        (KEY, "JSON"),
        ("# nobody", "holds no key"),
    ],
)
def test_a_bad_key_file_is_refused_without_telling_keys(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "keys.jsonl"
    path.write_text(line)
    with pytest.raises(SettingError, match=message) as refused:
        read_keys(Settings(api_key_file=str(path)))
    assert KEY not in str(refused.value)


def test_keys_of_the_environment() -> None:
    settings = read_settings([], {"TRIMODAL_API_KEYS": f"{KEY},{OTHER}"})
    assert [key.sha256 for key in read_keys(settings)] == [digest_of(KEY), digest_of(OTHER)]
    assert KEY not in repr(settings) and digest_of(KEY) not in repr(read_keys(settings))
    with pytest.raises(SettingError, match="shorter than 16"):
        read_keys(Settings(api_keys="short"))
    with pytest.raises(SettingError, match="same sha256"):
        read_keys(Settings(api_keys=f"{KEY},{KEY}"))
    with pytest.raises(SystemExit):
        read_settings(["--api-keys", KEY], {})


def test_the_command_makes_a_key_that_the_gateway_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.jsonl"
    assert main(["key", str(path), "alice", "--requests-per-minute", "60", "--models", "demo,demo-vl"]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["key", str(path), "bob", "--admin"]) == 0
    alice, bob = read_keys(Settings(api_key_file=str(path)))
    assert (alice.name, alice.sha256, alice.requests_per_minute) == ("alice", digest_of(key), 60)
    assert alice.models == ["demo", "demo-vl"] and bob.models is None
    assert bob.admin and not alice.admin
    assert key not in path.read_text() and len(key) > 40
    assert path.stat().st_mode & 0o077 == 0
    assert main(["key", str(path), "bob"]) == 2
    assert main(["key", str(path), "a b"]) == 2
