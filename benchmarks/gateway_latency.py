"""The gateway's own share of the time to the first token, and how many stream events it passes on.

`.venv/bin/python benchmarks/gateway_latency.py` starts an echo service and a gateway, each in its own process, and asks
in turns directly over gRPC and through the gateway. With `--base-url` and `--triton-grpc` it measures a running system.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvicorn

from gateway.errors import GatewayError
from gateway.tensors import encode
from gateway.triton import Triton

ROOT = Path(__file__).resolve().parents[1]
BARE_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"word " * 40 + b'"}}]}\n\n'
# One is woken up for each event; several share what that costs.
NUM_STREAMS = (1, 4, 8)
MESSAGES = [{"role": "user", "content": "Name a colour."}]


class HttpStream:
    """A client as thin as can be, so that its own cost does not count as the gateway's: one kept-alive connection."""

    path = "/v1/chat/completions"

    def __init__(self, base_url: str) -> None:
        self.host, self.port = urlsplit(base_url).hostname, urlsplit(base_url).port

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=2**24)

    async def ask(self, max_tokens: int) -> tuple[float, int]:
        """Returns the seconds to the first content chunk, and the number of events."""
        options = {"max_tokens": max_tokens, "temperature": 0, "stream": True, "ignore_eos": True}
        body = orjson.dumps({"messages": MESSAGES, **options})
        head = f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        started = time.perf_counter()
        self.writer.write(head.encode() + body)
        text = await self.reader.readuntil(b'"delta":{"content":')
        first = time.perf_counter() - started
        events = text.count(b"data: ")
        while not text.endswith(b"0\r\n\r\n"):
            text = text[-16:] + (read := await self.reader.read(2**18))
            events += read.count(b"data: ")
        return first, events


async def ask_directly(triton: Triton, entry: str, max_tokens: int) -> float:
    inputs = encode({"messages": orjson.dumps(MESSAGES), "max_tokens": max_tokens, "temperature": 0.0, "stream": True})
    started = time.perf_counter()
    async with triton.stream(entry, "benchmark", inputs) as stream:
        await anext(stream)
        first = time.perf_counter() - started
        async for _ in stream:
            pass
        stream.finished = True
    return first


async def measure(arguments: argparse.Namespace, gateway_pid: int | None) -> None:
    triton, http = Triton(arguments.triton_grpc), HttpStream(arguments.base_url)
    await wait_until_ready(triton, http)
    direct: list[float] = []
    through: list[float] = []
    for turn in range(-20, arguments.requests):
        # Who asks second finds warmer caches, so they take turns at that too.
        for way in (0, 1) if turn % 2 else (1, 0):
            seconds = await ask_directly(triton, arguments.entry, 4) if way == 0 else (await http.ask(4))[0]
            if turn >= 0:
                (direct, through)[way].append(seconds * 1000)
    for name, times in (("directly over gRPC", direct), ("through the gateway", through)):
        print(f"first token {name:20s} p50 {percentile(times, 50):6.2f} ms   p95 {percentile(times, 95):6.2f} ms")
    shares = percentile(through, 50) - percentile(direct, 50), percentile(through, 95) - percentile(direct, 95)
    print(f"the gateway's own share          p50 {shares[0]:6.2f} ms   p95 {shares[1]:6.2f} ms")
    http.writer.close()
    for num_streams in NUM_STREAMS:
        await measure_events(arguments, num_streams, gateway_pid)
    if gateway_pid is not None:
        await measure_bare(arguments)
    await triton.close()


async def measure_events(arguments: argparse.Namespace, num_streams: int, gateway_pid: int | None) -> None:
    """`--tokens` events in all, of streams at once."""
    streams = [HttpStream(arguments.base_url) for _ in range(num_streams)]
    for stream in streams:
        await stream.open()
    started, cpu = time.perf_counter(), cpu_seconds(gateway_pid)
    asked = await asyncio.gather(*(stream.ask(arguments.tokens // num_streams) for stream in streams))
    seconds, cpu = time.perf_counter() - started, cpu_seconds(gateway_pid) - cpu
    events = sum(count for _, count in asked)
    own = "" if gateway_pid is None else f", {events / cpu:.0f} per second of the gateway's CPU time"
    print(f"streams: {num_streams}: {events} events in {seconds:.2f} s = {events / seconds:.0f} per second{own}")
    for stream in streams:
        stream.writer.close()


async def measure_bare(arguments: argparse.Namespace) -> None:
    """The same number of events of the same length from an app that only sends them, one by one."""
    bare = HttpStream(arguments.bare_url)
    for _ in range(100):
        with suppress(OSError):
            await bare.open()
            break
        await asyncio.sleep(0.1)
    cpu = cpu_seconds(arguments.bare_pid)
    _, events = await bare.ask(arguments.tokens)
    cpu = cpu_seconds(arguments.bare_pid) - cpu
    print(f"            {events / cpu:.0f} per second of CPU time of a bare uvicorn app that has them all")
    bare.writer.close()


async def bare_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    asked = orjson.loads((await receive())["body"])["max_tokens"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(asked):
        await send({"type": "http.response.body", "body": BARE_EVENT, "more_body": True})
        # As a real stream does, it lets others run between two events.
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def wait_until_ready(triton: Triton, http: HttpStream) -> None:
    for _ in range(200):
        try:
            await triton.index()
            await http.open()
            return
        except (GatewayError, OSError):
            await asyncio.sleep(0.1)
    sys.exit(f"nothing answers at {http.host}:{http.port} (--base-url), or no Triton by gRPC (--triton-grpc)")


def percentile(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


def cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return 0.0
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def own_system(arguments: argparse.Namespace) -> Iterator[int]:
    """Starts the echo service and a gateway; yields the gateway's process id."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port_file, port = Path(folder) / "port", probe.getsockname()[1]
        probe.close()
        with socket.create_server(("127.0.0.1", 0)) as other:
            bare_port = other.getsockname()[1]
        processes = [subprocess.Popen([sys.executable, str(ROOT / "tests/fake_triton.py"), str(port_file)])]
        try:
            while not port_file.exists() or not port_file.read_text():
                time.sleep(0.05)
            arguments.triton_grpc, arguments.base_url = f"127.0.0.1:{port_file.read_text()}", f"http://127.0.0.1:{port}"
            options = ["--port", str(port), "--triton-grpc", arguments.triton_grpc, "--triton-metrics", ""]
            command = [sys.executable, "-m", "gateway", *options, "--log-level", "warning"]
            processes.append(subprocess.Popen(command, cwd=ROOT))
            processes.append(subprocess.Popen([sys.executable, __file__, "--bare-port", str(bare_port)], cwd=ROOT))
            arguments.bare_url, arguments.bare_pid = f"http://127.0.0.1:{bare_port}", processes[2].pid
            yield processes[1].pid
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="a running gateway, for example http://127.0.0.1:8000")
    parser.add_argument("--triton-grpc", default="127.0.0.1:8001", help="its Triton; used with --base-url")
    parser.add_argument("--entry", default="llm", help="the chat model's entry in Triton")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tokens", type=int, help="events of the counted streams; 20000 or, with --base-url, 500")
    parser.add_argument("--bare-port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_port:
        uvicorn.run(bare_app, port=arguments.bare_port, loop="uvloop", http="httptools", log_level="error")
        return
    arguments.tokens = arguments.tokens or (500 if arguments.base_url else 20_000)
    if arguments.base_url:
        asyncio.run(measure(arguments, None))
        return
    with own_system(arguments) as gateway_pid:
        asyncio.run(measure(arguments, gateway_pid))


if __name__ == "__main__":
    main()
