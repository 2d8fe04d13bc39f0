"""Waiting until every entry and the gateway answer, with progress; or telling in one sentence why they will not."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from launcher.console import LiveLine
from launcher.errors import StartFailed
from launcher.logs import ProcessLog
from launcher.processes import ChildProcess, describe_exit
from launcher.triton_client import EntryState, TritonClient, TritonError

POLL_S = 0.1


def entry_names(repository: Path) -> list[str]:
    return sorted(config.parent.name for config in repository.glob("*/config.pbtxt"))


async def wait_for_models(
    triton: ChildProcess, client: TritonClient, entries: list[str], log: ProcessLog, line: LiveLine
) -> None:
    """Return when every entry is ready; raises StartFailed with Triton's reason."""
    while not await client.is_live():
        if triton.exit_code is not None:
            reason = log.last_error("it gave no reason")
            raise StartFailed(f"tritonserver ended ({describe_exit(triton.exit_code)}): {reason}; see {log.where}")
        line.show(_progress(entries, log.loaded_entries()))
        await asyncio.sleep(POLL_S)
    index = await client.index()
    failed = [index.get(name, EntryState(name, "UNAVAILABLE", "")) for name in entries]
    failed = [_with_reason(entry, log) for entry in failed if entry.state != "READY"]
    if failed:
        raise StartFailed(failure_sentence(failed, log))
    for entry in entries:
        await _until_ready(client, entry)


async def wait_for_gateway(
    gateway: ChildProcess, url: str, log: ProcessLog, line: LiveLine, timeout_s: float = 60
) -> None:
    """Return when `url` gives 200; raises StartFailed when the gateway ends, or is still not ready at the end."""
    for _ in range(int(timeout_s / POLL_S)):
        if gateway.exit_code is not None:
            reason = log.last_error("it gave no reason")
            raise StartFailed(f"the gateway ended ({describe_exit(gateway.exit_code)}): {reason}; see {log.where}")
        if await answers(url):
            return
        line.show("every model is loaded; waiting for the gateway")
        await asyncio.sleep(POLL_S)
    raise StartFailed(f"the gateway was not ready after {timeout_s:.0f} s; see {log.where}")


async def answers(url: str) -> bool:
    """Whether a GET gives 200 within 2 s, or asks for a key."""
    return await asyncio.to_thread(_is_ok, url)


def failure_sentence(failed: list[EntryState], log: ProcessLog) -> str:
    """The cause comes first: an ensemble fails because one of its steps did."""
    causes = [entry for entry in failed if not _is_consequence(entry)] or failed
    told = "; ".join(f"{entry.name} did not load: {brief_reason(entry)}" for entry in causes)
    return f"{told}; see {log.where}"


def _with_reason(entry: EntryState, log: ProcessLog) -> EntryState:
    return entry if entry.reason else dataclasses.replace(entry, reason=log.reason_for(entry.name))


def brief_reason(entry: EntryState) -> str:
    """Triton's reason without the names of its exceptions in front and the traceback below."""
    text = entry.reason.strip().split("\n")[0].rstrip(";")
    for prefix in ("Internal: ", "Invalid argument: ", "TritonModelException: ", f"{entry.name}: ", "OptionError: "):
        text = text.removeprefix(prefix)
    return text.removeprefix(f"{entry.name}: ") or "Triton does not know it; its config.pbtxt may be broken"


def _is_consequence(entry: EntryState) -> bool:
    return "depends on" in entry.reason or "ensemble" in entry.reason


async def _until_ready(client: TritonClient, entry: str) -> None:
    for _ in range(100):
        try:
            if await client.is_ready(entry):
                return
        except TritonError:
            # Triton answers with an error, not with "no", while an entry changes its state.
            pass
        await asyncio.sleep(POLL_S)
    raise StartFailed(f"{entry} is loaded but does not say that it is ready")


def _progress(entries: list[str], loaded: set[str]) -> str:
    waiting = [name for name in entries if name not in loaded]
    if not waiting:
        return "every model is loaded; waiting for tritonserver"
    return f"loaded {len(entries) - len(waiting)} of {len(entries)} models; waiting for {', '.join(waiting)}"


def _is_ok(url: str) -> bool:
    try:
        # Direct: an HTTP proxy of the environment is not for this machine.
        # Its own certificate is made out to the name that clients use, not to the loopback.
        trusting = ssl._create_unverified_context()
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
        )
        with opener.open(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError as error:
        # A gateway with keys tells nothing to who has none; it runs, and the models are awaited at Triton itself.
        return error.code == 401
    except OSError:
        return False
