"""Real parts on real sockets: the app under uvicorn, a KServe service under grpc.aio, httpx and openai as clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from gateway.deps import Services
from gateway.server import create_server
from gateway.settings import Settings
from tests.fake_triton import FakeTriton


@dataclass
class Gateway:
    """A running gateway: its address, a client of it, and its inner parts to assert on."""

    base_url: str
    http: httpx.AsyncClient
    services: Services

    async def chat(self, content: Any = "hi", **fields: Any) -> httpx.Response:
        body = {"model": "demo", "messages": [{"role": "user", "content": content}]} | fields
        return await self.http.post("/v1/chat/completions", json=body)

    async def metric(self, line_start: str) -> float:
        """Returns a metric's value; 0 when it was never set."""
        text = (await self.http.get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith(line_start)]
        return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def fake() -> AsyncIterator[FakeTriton]:
    triton = FakeTriton()
    await triton.start()
    yield triton
    await triton.stop()


@pytest.fixture
async def start_gateway(fake: FakeTriton) -> AsyncIterator[StartGateway]:
    """Starts gateways in front of `fake`, with other settings where a test needs them."""
    async with AsyncExitStack() as stack:

        async def start(verify: ssl.SSLContext | bool = True, **changes: Any) -> Gateway:
            options = {"port": 0, "triton_metrics": "", "triton_grpc": fake.endpoint, **changes}
            return await stack.enter_async_context(running_gateway(Settings(**options), verify))

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway()


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=gateway.base_url + "/v1", api_key="unused", max_retries=0) as opened:
        yield opened


@asynccontextmanager
async def running_gateway(settings: Settings, verify: ssl.SSLContext | bool = True) -> AsyncIterator[Gateway]:
    server = create_server(settings)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    services: Services = server.config.app.state.services  # type: ignore[union-attr]
    await services.discovery.refresh()
    base_url = f"{'https' if settings.tls_cert_file else 'http'}://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base_url, timeout=10, trust_env=False, verify=verify) as http:
        yield Gateway(base_url, http, services)
    server.should_exit = True
    await serving
