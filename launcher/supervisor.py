"""Watching Triton's model processes and bringing a lost one back, because Triton does neither.

Triton goes on calling such an entry ready, and its open streams hang. The supervisor unloads it with the ensembles that
contain it (this is what the gateway sees), shuts the connections of native clients, and loads it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from launcher.backoff import Backoff
from launcher.connections import shut_connections
from launcher.console import say
from launcher.model_processes import ModelProcess, ModelProcesses, ProcessWatch
from launcher.processes import kill_process, remove_shared_memory
from launcher.triton_client import EntryState, TritonClient, TritonError

POLL_S = 0.1

# The gateway looks every 0.25 s: an entry must not be ready again before the gateway has seen that it was not.
UNREADY_S = 1.0


class Supervisor:
    """Looks after the models of one running tritonserver. `friends` are processes whose connections to it stay open;
    `restart` ends tritonserver where connections cannot be shut."""

    def __init__(
        self,
        client: TritonClient,
        triton_pid: int,
        grpc_port: int,
        friends: Callable[[], Iterable[int]],
        restart: Callable[[], None],
    ) -> None:
        self._client = client
        self._triton_pid = triton_pid
        self._grpc_port = grpc_port
        self._friends = friends
        self._restart = restart
        self._processes = ModelProcesses(triton_pid)
        self._watch = ProcessWatch()
        self._backoffs: dict[str, Backoff] = {}
        self._recoveries: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled, or until tritonserver is gone."""
        try:
            with suppress(TritonError):
                await self._take_stock()
            while psutil.pid_exists(self._triton_pid):
                with suppress(psutil.NoSuchProcess, TritonError):
                    await self._look()
                await asyncio.sleep(POLL_S)
        finally:
            for recovery in self._recoveries.values():
                recovery.cancel()

    async def _take_stock(self) -> None:
        """What runs, and what does not: when tritonserver starts anew, an entry that fails to load gets more tries."""
        while not await self._client.is_live():
            await asyncio.sleep(POLL_S)
        for entry in (await self._client.index()).values():
            if entry.state != "READY":
                say(f"{entry.name} did not load: {first_line(entry.reason)}")
                self._recoveries[entry.name] = asyncio.create_task(self._load_until_ready(entry.name))
            elif await self._client.has_processes(entry.name):
                self._watch.expect(entry.name)

    async def _look(self) -> None:
        if not self._unattended(self._processes.look()):
            return
        # It may have a new process by now, which only a scan finds.
        lost = self._unattended(self._processes.scan())
        if not lost:
            return
        index = await self._client.index()
        for entry, process in lost.items():
            # An entry that is not ready lost its process because somebody unloads it.
            if index.get(entry, EntryState(entry, "", "")).state == "READY":
                self._recoveries[entry] = asyncio.create_task(self._recover(process))
            else:
                self._watch.forget(entry)

    def _unattended(self, running: Iterable[ModelProcess]) -> dict[str, ModelProcess]:
        """The lost process per entry, but for those that are on their way back."""
        lost = self._watch.observe(running)
        return {entry: process for entry, process in lost.items() if entry not in self._recoveries}

    async def _recover(self, process: ModelProcess) -> None:
        entry = process.entry
        fate = "hangs (stopped)" if process.stopped else "died"
        which = f" (pid {process.pid})" if process.pid else ""
        say(f"the process of {entry}{which} {fate}; loading it again")
        try:
            if process.stopped:
                kill_process(process.pid)
            await self._end_streams(entry)
            # Triton frees the segment only of a process that ends by itself.
            remove_shared_memory(process.segment)
        except TritonError as error:
            # Somebody else unloaded it, or tritonserver is on its way out; loading tells.
            say(f"{entry} could not be unloaded: {first_line(str(error))}")
        await self._load_until_ready(entry)

    async def _end_streams(self, entry: str) -> None:
        decoupled = await self._client.is_decoupled(entry)
        await self._client.unload(entry)
        # Triton itself ends the requests of an entry that is not decoupled, within 3 s.
        if not decoupled:
            return
        try:
            count = shut_connections(self._triton_pid, self._grpc_port, [os.getpid(), *self._friends()])
        except psutil.NoSuchProcess:
            # tritonserver is gone, and its connections with it.
            return
        except OSError as error:
            say(f"connections cannot be shut here ({error.strerror}); tritonserver starts anew to end the open streams")
            self._restart()
        else:
            say(f"ended {count} connections of native clients")

    async def _load_until_ready(self, entry: str) -> None:
        # Kept between deaths: a model that dies on each request must not load all day long.
        backoff = self._backoffs.setdefault(entry, Backoff(UNREADY_S, 30.0))
        while True:
            await asyncio.sleep(backoff.next_pause_s())
            try:
                await self._client.load(entry)
                break
            except TritonError as error:
                say(f"{entry} did not load: {first_line(str(error))}")
        backoff.note_well()
        say(f"{entry} is ready again")
        self._watch.expect(entry)
        del self._recoveries[entry]


def first_line(reason: str) -> str:
    """Triton's reason without the Python traceback below it."""
    return reason.strip().split("\n")[0] if reason.strip() else "no reason given"
