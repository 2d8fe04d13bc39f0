"""`./trimodal serve`: tritonserver and the gateway from start to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.backoff import Backoff
from launcher.commands import EXIT_TIMEOUT_S, gateway_command, triton_command, triton_environment
from launcher.console import LiveLine, say
from launcher.errors import LauncherError, StartFailed
from launcher.logs import ProcessLog
from launcher.options import ROOT, ServeOptions
from launcher.ports import Ports, address, choose_ports, connect_host
from launcher.processes import ChildProcess, adopt_orphans, describe_exit, session_pids
from launcher.repository import render
from launcher.startup import answers, entry_names, wait_for_gateway, wait_for_models
from launcher.supervisor import Supervisor
from launcher.triton_client import TritonClient
from launcher.triton_install import TritonInstallation, assemble
from launcher.welcome import served_models, welcome

GATEWAY_GRACE_S = 8.0
MAX_CRASHES = 5


def serve(options: ServeOptions) -> int:
    """Serve until a signal; 0 after a clean stop. Raises LauncherError."""
    installation = assemble()
    with _repository(options) as repository:
        if not entry_names(repository):
            raise LauncherError(
                f"{repository} has no entry (a folder with a config.pbtxt); name another with --model-repository"
            )
        # Last, so that a port which is free now is used within milliseconds.
        ports = choose_ports(options.host, options.ports, options.triton_host)
        adopt_orphans()
        return asyncio.run(System(options, installation, repository, ports).run())


class System:
    """The two processes and what looks after them."""

    def __init__(self, options: ServeOptions, installation: TritonInstallation, repository: Path, ports: Ports) -> None:
        self._options = options
        self._installation = installation
        self._repository = repository
        self._ports = ports
        self._log = ProcessLog(options.log_path(ports))
        self._shm_prefix = f"trimodal_{os.getpid()}_"
        self._url = options.url(ports)
        self._children: dict[str, ChildProcess] = {}
        self._ready = False
        self._hurry = False

    async def run(self) -> int:
        if self._options.port_file:
            # Whoever waits for the file must not read that of an earlier run.
            self._options.port_file.unlink(missing_ok=True)
        self._client = TritonClient(address(connect_host(self._options.triton_host), self._ports.grpc))
        self._stopping = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        try:
            await self._serve_until_signal()
        finally:
            await self._stop()
        return 130 if self._hurry else 0

    async def _serve_until_signal(self) -> None:
        work = asyncio.create_task(self._serve())
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stop):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await work

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._hurry = True
            for child in self._children.values():
                child.kill()
        else:
            say("stopping (a second Ctrl-C ends everything at once)")
            self._stopping.set()

    async def _serve(self) -> None:
        # Both at once: the gateway's imports take as long as those of a small model.
        names = ["tritonserver", "gateway"] if self._options.gateway else ["tritonserver"]
        for name in names:
            self._start(name)
        await self._wait_until_ready()
        self._ready = True
        if self._options.port_file:
            self._ports.write(self._options.port_file)
        print(welcome(self._options, self._ports, self._repository, self._log.where), flush=True)
        keepers = [asyncio.create_task(self._keep(name)) for name in names]
        try:
            await asyncio.gather(*keepers)
        finally:
            # When one gives up, the other must not start its process again while all is stopped.
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _wait_until_ready(self) -> None:
        line = LiveLine()
        try:
            entries = entry_names(self._repository)
            await wait_for_models(self._children["tritonserver"], self._client, entries, self._log, line)
            if self._options.gateway:
                # A repository without OpenAI models never makes the gateway ready, but it can be served.
                probe = "readiness" if served_models(self._repository) else "liveness"
                await wait_for_gateway(self._children["gateway"], f"{self._url}/{probe}", self._log, line)
        finally:
            line.done()

    def _start(self, name: str) -> None:
        host, level = self._options.triton_host, self._options.log_level
        if name == "gateway":
            command, environment = gateway_command(self._options, self._ports), dict(os.environ)
            folder, prefix = ROOT, ""
        else:
            # A model process imports from the folder it runs in: the user's may hold a numpy.py, or a folder `triton`.
            folder, prefix = self._installation.backends, self._shm_prefix
            command = triton_command(self._installation, self._repository, host, self._ports, prefix, level)
            environment = triton_environment(self._installation, host, self._ports)
        self._children[name] = ChildProcess(name, command, environment, folder, self._log.output, prefix)

    async def _keep(self, name: str) -> None:
        """Start it again whenever it ends; raises StartFailed when it cannot stay up."""
        backoff = Backoff(0.5, 30.0)
        while True:
            child = self._children[name]
            await self._until_exit(child, backoff)
            ended = f"{name} ended unexpectedly ({describe_exit(child.exit_code)})"
            await child.stop(0)
            pause_s = backoff.next_pause_s()
            if backoff.failures > MAX_CRASHES:
                raise StartFailed(f"{ended}, {backoff.failures} times in a row; see {self._log.where}")
            say(f"{ended}; starting it again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            self._start(name)

    async def _until_exit(self, child: ChildProcess, backoff: Backoff) -> None:
        watchers = [asyncio.create_task(self._note_well(child, backoff))]
        if child.name == "tritonserver":
            supervisor = Supervisor(self._client, child.pid, self._ports.grpc, self._friends, child.kill)
            watchers.append(asyncio.create_task(supervisor.run()))
        try:
            await child.wait()
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _note_well(self, child: ChildProcess, backoff: Backoff) -> None:
        """A process is well once it answers, not once it runs: loading may take minutes."""
        url = f"{self._url}/liveness"
        while not await (self._client.is_live() if child.name == "tritonserver" else answers(url)):
            await asyncio.sleep(1)
        if backoff.failures:
            say(f"{child.name} answers again")
        backoff.note_well()

    def _friends(self) -> list[int]:
        return [pid for child in self._children.values() for pid in session_pids(child.pid)]

    async def _stop(self) -> None:
        """The gateway first: its clients get to know, and nothing new reaches Triton."""
        if self._options.port_file:
            self._options.port_file.unlink(missing_ok=True)
        # Before all is ready there is nothing to finish, and tritonserver does not listen to SIGTERM.
        is_patient = self._ready and not self._hurry
        if gateway := self._children.get("gateway"):
            await gateway.stop(GATEWAY_GRACE_S * is_patient)
        if triton := self._children.get("tritonserver"):
            written = self._log.size()
            await triton.stop((EXIT_TIMEOUT_S + 2) * is_patient, lambda: self._log.is_drained(written))
        await self._client.close()
        self._log.close()


@contextmanager
def _repository(options: ServeOptions) -> Iterator[Path]:
    """The repository as it is; or a folder rendered for this run when checkpoints or engine options are given."""
    if options.models.is_empty:
        yield options.model_repository.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="trimodal-repository-") as folder:
        render(options.model_repository, Path(folder), options.models)
        yield Path(folder)
