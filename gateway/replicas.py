"""Several Tritons as one: their addresses, their channels, and who gets a request. Knows no HTTP and no gRPC call."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from gateway.addresses import addresses_of, is_literal
from gateway.affinity import conversation_key, in_order, most_open
from gateway.errors import GatewayError, ServerGone, UpstreamFault
from gateway.metrics import Metrics
from gateway.tensors import Value, encode
from gateway.triton import EntryConfig, EntryState, Triton, TritonStream

log = logging.getLogger("trimodal.gateway")

LOOK_UP_AGE_S = 3.0

# Takes an address, and the name that it was found under, if there was one.
Connect = Callable[[str, str], Triton]
LookUp = Callable[[str], Awaitable[list[str]]]
Result = TypeVar("Result")


class Replicas:
    """A channel to every address behind `endpoints` (host:port). Errors are GatewayError.

    With one address there is nothing to choose, and nothing is computed for a choice.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        connect: Connect,
        metrics: Metrics,
        look_up: LookUp = addresses_of,
        look_up_age_s: float = LOOK_UP_AGE_S,
    ) -> None:
        self._connect = connect
        self._look_up = look_up
        self._look_up_age_s = look_up_age_s
        self._metrics = metrics
        self._fixed = {endpoint for endpoint in endpoints if is_literal(endpoint)}
        # Names with the addresses last found for them.
        self._names: dict[str, list[str]] = {endpoint: [] for endpoint in endpoints if endpoint not in self._fixed}
        self._tritons = {endpoint: connect(endpoint, "") for endpoint in endpoints if endpoint in self._fixed}
        # Those whose address is gone, until their streams have ended.
        self._leaving: list[Triton] = []
        self._live: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Replicas {list(self._tritons.values())}, leaving {self._leaving}>"

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(triton.close() for triton in [*self._tritons.values(), *self._leaving]))

    def stream(self, entry: str, request_id: str, inputs: Mapping[str, Value], *wanted: frozenset[str]) -> TritonStream:
        """Opens one call on a replica where the first set of entries in `wanted` is ready, else the next, else on any.

        If that one is gone before it says anything, another is asked, once.
        """
        tensors = encode(inputs)
        if len(self._tritons) == 1:
            (only,) = self._tritons.values()
            return only.stream(entry, request_id, tensors)
        key = conversation_key(entry, inputs)
        first = self._choose(key, wanted) or self._choose(key, [frozenset()])
        if first is None:
            raise ServerGone("The model server cannot be reached.")
        return first.stream(entry, request_id, tensors, partial(self._choose, key, wanted, first))

    async def index(self) -> dict[str, EntryState]:
        """The entries of all replicas; what is ready on one of them is ready. Raises ServerGone if none answers."""
        await self._look_again()
        asked = dict(self._tritons)
        answers = await asyncio.gather(*(_index_of(triton) for triton in asked.values()))
        found = {address: entries for address, entries in zip(asked, answers, strict=True) if entries is not None}
        self._note(set(found))
        await self._leave()
        if not found:
            raise ServerGone("The model server cannot be reached.")
        merged: dict[str, EntryState] = {}
        for entries in found.values():
            merged |= {name: entry for name, entry in entries.items() if name not in merged or entry.ready}
        return merged

    async def config(self, name: str) -> EntryConfig:
        return await self._first_with(name, lambda triton: triton.config(name))

    async def config_json(self, name: str) -> dict[str, Any]:
        """The whole configuration, in the form that `load` takes."""
        return await self._first_with(name, lambda triton: triton.config_json(name))

    async def load(self, name: str, config: Mapping[str, Any] | None = None) -> None:
        """Loads an entry on all replicas. May take minutes. Raises UpstreamFault that names those that failed."""
        await self._on_all(lambda triton: triton.load(name, config))

    async def unload(self, name: str) -> None:
        """Unloads an entry on all replicas; see Triton.unload."""
        await self._on_all(lambda triton: triton.unload(name))

    def _choose(self, key: bytes | None, wanted: Sequence[frozenset[str]], gone: Triton | None = None) -> Triton | None:
        others = [triton for triton in self._tritons.values() if triton is not gone]
        for entries in wanted:
            if able := [triton for triton in others if entries <= triton.ready]:
                chosen, reason = _choice(able, key)
                self._metrics.replica_requests.labels(chosen.endpoint, "retry" if gone else reason).inc()
                return chosen
        return None

    async def _first_with(self, name: str, ask: Callable[[Triton], Awaitable[Result]]) -> Result:
        """Asks one after the other, those first where the entry is ready, until one answers."""
        error: GatewayError = ServerGone("The model server cannot be reached.")
        for triton in sorted(self._tritons.values(), key=lambda triton: name not in triton.ready):
            try:
                return await ask(triton)
            except GatewayError as caught:
                error = caught
        raise error

    async def _on_all(self, ask: Callable[[Triton], Awaitable[None]]) -> None:
        faults = await asyncio.gather(*(_fault_of(ask(triton)) for triton in self._tritons.values()))
        found = {address: fault for address, fault in zip(self._tritons, faults, strict=True) if fault}
        if found and len(faults) == 1:
            raise found.popitem()[1]
        if found:
            raise UpstreamFault("; ".join(f"{address}: {fault}" for address, fault in found.items()))

    def _note(self, live: set[str]) -> None:
        for address in live ^ self._live:
            log.info("the replica %s %s", address, "answers" if address in live else "does not answer")
        for address in live | self._live | set(self._tritons):
            self._metrics.replica_up.labels(address).set(address in live)
            triton = self._tritons.get(address)
            self._metrics.replica_in_flight.labels(address).set(triton.num_open if triton else 0)
        self._live = live

    async def _look_again(self) -> None:
        """Begins to look the names up again when it is time; waits for it only while there is no address at all."""
        if self._names and self._looking is None and time.monotonic() - self._looked_at > self._look_up_age_s:
            self._looking = asyncio.ensure_future(self._read_names())
        if self._looking is not None and not self._tritons:
            await self._looking

    async def _read_names(self) -> None:
        try:
            for name in self._names:
                try:
                    self._names[name] = await self._look_up(name)
                except OSError as error:
                    # A service of which no pod is ready has no address; those that were there may still come back.
                    log.info("looking up %s: %s", name, error)
            self._meet()
        finally:
            self._looking, self._looked_at = None, time.monotonic()

    def _meet(self) -> None:
        """Connects to addresses that are new; those that are gone get nothing any more."""
        found = {address: name.rpartition(":")[0] for name, addresses in self._names.items() for address in addresses}
        for address in self._tritons.keys() - self._fixed - found.keys():
            self._leaving.append(self._tritons.pop(address))
        for address in found.keys() - self._tritons.keys():
            self._tritons[address] = self._connect(address, found[address])

    async def _leave(self) -> None:
        idle = [triton for triton in self._leaving if not triton.num_open]
        self._leaving = [triton for triton in self._leaving if triton.num_open]
        await asyncio.gather(*(triton.close() for triton in idle))


def _choice(able: Sequence[Triton], key: bytes | None) -> tuple[Triton, str]:
    """One of them, and why: its prefix, or because others were busy."""
    if key is None:
        return min(able, key=lambda triton: (triton.num_open, random.random())), "least_open"
    by_address = {triton.endpoint: triton for triton in able}
    ordered = [by_address[address] for address in in_order(by_address, key)]
    limit = most_open([triton.num_open for triton in able])
    chosen = next(triton for triton in ordered if triton.num_open < limit)
    return chosen, "prefix" if chosen is ordered[0] else "passed_over"


async def _index_of(triton: Triton) -> dict[str, EntryState] | None:
    try:
        return await triton.index()
    except GatewayError:
        return None


async def _fault_of(asked: Awaitable[None]) -> GatewayError | None:
    try:
        await asked
    except GatewayError as error:
        return error
    return None
