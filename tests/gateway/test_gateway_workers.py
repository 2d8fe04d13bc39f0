"""Several worker processes on one port: all serve, their metrics are those of all, and a lost one comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import psutil
import pytest

from launcher.options import ROOT
from tests.fake_triton import FakeTriton, Hang, token


@pytest.fixture
async def url(fake: FakeTriton) -> AsyncIterator[tuple[str, int]]:
    """Address and process id of a gateway with two workers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = [f"--port={port}", f"--triton-grpc={fake.endpoint}", "--triton-metrics=", "--workers=2"]
    process = subprocess.Popen([sys.executable, "-m", "gateway", *options], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        await until_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}", process.pid
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.wait()


async def until_ready(url: str) -> None:
    for _ in range(300):
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            try:
                if (await client.get(url + "/readiness")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
        await asyncio.sleep(0.1)
    pytest.fail("the workers were never ready")


async def ask(url: str) -> int:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return (await client.post(url + "/v1/chat/completions", json=body)).status_code


async def metric(url: str, start: str) -> float:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        lines = (await client.get(url + "/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))


def workers(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "spawn_main" in " ".join(child.cmdline())]


async def test_workers_share_a_port_and_tell_the_metrics_of_all(url: tuple[str, int], fake: FakeTriton) -> None:
    address, pid = url
    assert await asyncio.gather(*(ask(address) for _ in range(40))) == [200] * 40
    assert {await metric(address, "trimodal_gateway_stream_events_total") for _ in range(8)} == {80.0}
    # A request that hangs shows as in flight, until its worker is killed.
    fake.script = lambda received: [token("a"), Hang()]
    hanging = asyncio.ensure_future(ask(address))
    for _ in range(100):
        # The question itself is in flight as well.
        if (in_flight := await metric(address, "trimodal_gateway_requests_in_flight")) == 2:
            break
        await asyncio.sleep(0.05)
    assert in_flight == 2
    lost = workers(pid)
    assert len(lost) == 2
    for worker in lost:
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(httpx.HTTPError):
        await hanging
    await until_ready(address)
    assert await metric(address, "trimodal_gateway_requests_in_flight") == 1
    assert await metric(address, "trimodal_gateway_stream_events_total") >= 80


def test_a_bad_setting_is_told_once() -> None:
    command = [sys.executable, "-m", "gateway", "--workers=2", "--api-key-file=/no/such/file"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert ran.stderr.count("api_key_file") == 1
