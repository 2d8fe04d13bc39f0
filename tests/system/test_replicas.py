"""Three real tritonservers behind one gateway: load spreads, conversations stay together, one of them dies and returns.

`llm` is the torch engine with the demo model, for whose prefix cache the choice is made; `echo` costs next to nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.settings import Settings
from launcher.commands import triton_command, triton_environment
from launcher.ports import Ports, choose_ports
from launcher.processes import ChildProcess
from launcher.triton_install import TritonInstallation, assemble
from tests.conftest import ROOT
from tests.gateway.conftest import Gateway, running_gateway

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LOCALHOST = "127.0.0.1"
NUM_REPLICAS = 3
START_S = 180
# Four sequences of `echo` run at a time, the others wait and have heard nothing yet.
TOKENS_PER_SECOND, NUM_RUNNING = 20, 4


@dataclass
class Server:
    """One tritonserver, at the same ports whenever it is started."""

    installation: TritonInstallation
    repository: Path
    number: int
    ports: Ports = field(default_factory=lambda: choose_ports(LOCALHOST, Ports(0, 0, 0, 0)))
    process: ChildProcess | None = None

    @property
    def grpc(self) -> str:
        return f"{LOCALHOST}:{self.ports.grpc}"

    def start(self) -> None:
        prefix = f"trimodal_test_{os.getpid()}_{self.number}_"
        command = triton_command(self.installation, self.repository, LOCALHOST, self.ports, prefix, "warning")
        environment = triton_environment(self.installation, LOCALHOST, self.ports)
        with (self.repository.parent / f"triton-{self.number}.log").open("ab") as log:
            folder = self.installation.backends
            self.process = ChildProcess("tritonserver", command, environment, folder, log, prefix)

    async def die(self) -> None:
        """kill -9 of tritonserver itself; its model processes are cleared away."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.stop(0)

    async def stop(self) -> None:
        assert self.process is not None
        await self.process.stop(20)


@dataclass
class Deployment:
    gateway: Gateway
    servers: list[Server]

    async def ask(self, content: Any, **fields: Any) -> httpx.Response:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        body = {"model": "echo", "messages": messages, "temperature": 0, **fields}
        return await self.gateway.http.post("/v1/chat/completions", json=body, timeout=60)

    async def requests(self, entry: str) -> list[int]:
        """How many each replica has answered, as its own tritonserver counts them."""
        text = (await self.gateway.http.get("/metrics")).text
        found = {}
        for server in self.servers:
            replica = re.escape(f"{LOCALHOST}:{server.ports.metrics}")
            [count] = re.findall(rf'nv_inference_request_success{{replica="{replica}",model="{entry}",.*}} (\d+)', text)
            found[server.number] = int(count)
        return list(found.values())

    async def choices(self) -> list[str]:
        """The gateway's own counts of what it chose, and why."""
        lines = (await self.gateway.http.get("/metrics")).text.splitlines()
        return [line for line in lines if line.startswith("trimodal_gateway_replica_requests_total")]

    def num_up(self) -> int:
        tritons = self.gateway.services.triton._tritons.values()
        return sum({"llm", "echo"} <= triton.ready for triton in tritons)


def repository(folder: Path) -> Path:
    """`llm` without eyes, and the same with the engine `echo`."""
    for name, engine in (("llm", "torch"), ("echo", "echo")):
        shutil.copytree(ROOT / "model_repository" / "llm", folder / name)
        file = folder / name / "config.pbtxt"
        config = file.read_text().replace("../../demo_models", str(ROOT / "demo_models"))
        config = config.replace('name: "llm"', f'name: "{name}"').replace('"text,image"', '"text"')
        config = config.replace('"torch"', f'"{engine}"').replace('string_value: "demo-vl"', f'string_value: "{name}"')
        if engine == "echo":
            pace = {"echo_tokens_per_second": TOKENS_PER_SECOND, "max_num_seqs": NUM_RUNNING}
            for key, value in pace.items():
                config += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        file.write_text(config)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    folder = tmp_path_factory.mktemp("replicas")
    installation, models = assemble(folder / "triton"), repository(folder / "models")
    servers = [Server(installation, models, number) for number in range(NUM_REPLICAS)]
    async with AsyncExitStack() as stack:
        for server in servers:
            server.start()
            stack.push_async_callback(server.stop)
        settings = Settings(
            port=0,
            triton_grpc=",".join(server.grpc for server in servers),
            triton_metrics=",".join(f"{LOCALHOST}:{server.ports.metrics}" for server in servers),
        )
        gateway = await stack.enter_async_context(running_gateway(settings))
        found = Deployment(gateway, servers)
        await until(lambda: found.num_up() == NUM_REPLICAS)
        yield found


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(10 * START_S):
        if happened():
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"it did not happen within {START_S} s")


async def test_unrelated_requests_spread(deployment: Deployment) -> None:
    before = await deployment.requests("echo")
    # So few that the bound of open requests does not take them from a replica that is slow on a busy machine.
    lane = asyncio.Semaphore(4)

    async def one(number: int) -> int:
        async with lane:
            return (await deployment.ask(f"Question {number} of many", max_tokens=1)).status_code

    assert set(await asyncio.gather(*(one(number) for number in range(900)))) == {200}
    counts = [after - count for after, count in zip(await deployment.requests("echo"), before, strict=True)]
    print("unrelated requests:", counts)
    assert sum(counts) == 900
    assert all(abs(count - 300) <= 60 for count in counts), (counts, await deployment.choices())


async def test_turns_go_where_their_prefix_is(deployment: Deployment) -> None:
    before = await deployment.requests("llm")

    async def conversation(number: int) -> list[tuple[int, int]]:
        """Of each follow-up: tokens of the turn before it, and how many it found in the cache."""
        messages, told, found = [], 0, []
        for turn in range(5):
            messages.append({"role": "user", "content": f"{number}: question {turn}, who are you?"})
            answer = (await deployment.ask(messages, model="llm", max_tokens=8)).json()
            usage = answer["usage"]
            found.append((told, usage["prompt_tokens_details"]["cached_tokens"]))
            messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
            told = usage["prompt_tokens"]
        return found[1:]

    turns = [turn for talk in await asyncio.gather(*map(conversation, range(12))) for turn in talk]
    hits = sum(cached >= told - 1 for told, cached in turns)
    counts = [after - count for after, count in zip(await deployment.requests("llm"), before, strict=True)]
    print(f"follow-ups with their whole prefix: {hits} of {len(turns)}; requests: {counts}")
    assert hits >= 0.9 * len(turns), turns
    assert sum(counts) == 60 and min(counts) > 0


async def test_a_death_costs_only_its_own_streams(deployment: Deployment) -> None:
    gateway, tritons = deployment.gateway, deployment.gateway.services.triton._tritons
    asking = [
        asyncio.ensure_future(deployment.ask(f"Talk {i}", max_tokens=60, stream=True, ignore_eos=True))
        for i in range(30)
    ]
    await asyncio.sleep(1)
    dying = max(deployment.servers, key=lambda server: tritons[server.grpc].num_open)
    theirs = tritons[dying.grpc].num_open
    assert theirs > NUM_RUNNING
    await dying.die()
    at_once = [await deployment.ask(f"At once {i}", max_tokens=1) for i in range(30)]
    answers = await asyncio.gather(*asking)
    lost = sum("[DONE]" not in answer.text for answer in answers)
    print(f"of {theirs} streams of the dead one {lost} were lost, of {len(answers)} in all")
    assert {answer.status_code for answer in answers} == {200}
    assert lost == NUM_RUNNING, "those that had begun to speak"
    assert Counter(answer.status_code for answer in at_once) == {200: 30}
    assert all(answer.text.count('"finish_reason":"length"') == 1 for answer in answers if "[DONE]" in answer.text)
    assert (await gateway.http.get("/readiness")).status_code == 200

    dying.start()
    await until(lambda: deployment.num_up() == NUM_REPLICAS)
    later = [await deployment.ask(f"Later {i}", max_tokens=1) for i in range(60)]
    assert Counter(answer.status_code for answer in later) == {200: 60}
    counts = await deployment.requests("echo")
    print("requests of the one that came back:", counts[dying.number])
    assert counts[dying.number] > 0
