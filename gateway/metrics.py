"""The gateway's own Prometheus metrics, and Triton's beside them."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from gateway.addresses import addresses_of

# Dense where interactive answers lie, up to the limit on silence.
FIRST_TOKEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 60)
SCRAPE_TIMEOUT_S = 1.0
# Prometheus' own variable: the folder in which several workers keep their numbers, so that each can tell those of all.
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# By hand, since prometheus_client writes no counter without _total, and Triton's have none.
METRIC = re.compile(rb"((?:^#.*\n)+)((?:^[^#\n].*\n)*)", re.MULTILINE)
WITH_LABELS = re.compile(rb"^([\w:]+)\{", re.MULTILINE)
WITHOUT_LABELS = re.compile(rb"^([\w:]+) ", re.MULTILINE)


class Metrics:
    """One registry per app. Reasons of a cancel: client_gone, model_down, idle.

    Reasons to choose a replica: prefix, passed_over (that of the prefix was busy), least_open, retry.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "trimodal_gateway_requests", "Answered requests", ["route", "status"], registry=self.registry
        )
        self.in_flight = Gauge(
            "trimodal_gateway_requests_in_flight",
            "Requests being served",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.first_token = Histogram(
            "trimodal_gateway_first_token_seconds",
            "Time from the request to the first response of the model",
            ["model"],
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=self.registry,
        )
        self.stream_events = Counter(
            "trimodal_gateway_stream_events", "Responses turned into events", registry=self.registry
        )
        self.cancels = Counter(
            "trimodal_gateway_cancels", "Generations cancelled before their end", ["reason"], registry=self.registry
        )
        self.replica_up = self._gauge("up", "Whether a replica of Triton answered at the last look", "livemax")
        self.replica_in_flight = self._gauge("in_flight", "Requests open on a replica at the last look", "livesum")
        self.replica_requests = Counter(
            "trimodal_gateway_replica_requests",
            "Requests that a replica was chosen for",
            ["replica", "reason"],
            registry=self.registry,
        )

    def count_cancel(self, reason: str) -> None:
        self.cancels.labels(reason).inc()

    def count_gone(self) -> None:
        self.count_cancel("client_gone")

    async def render(self, triton_endpoints: Sequence[str]) -> bytes:
        """Prometheus text; a Triton that cannot be reached is missing, and of several each is labelled."""
        # http.client knows no asyncio, and a client library would be a dependency for one GET.
        own = generate_latest(
            _of_all_workers(os.environ[SHARED_FOLDER]) if SHARED_FOLDER in os.environ else self.registry
        )
        found = await asyncio.gather(*map(_addresses, triton_endpoints))
        addresses = [address for each in found for address in each]
        texts = await asyncio.gather(*(asyncio.to_thread(_scrape, address) for address in addresses))
        return own + (texts[0] if len(texts) == 1 else _merged(dict(zip(addresses, texts, strict=True))))

    def _gauge(self, name: str, text: str, mode: Any) -> Gauge:
        full_name = f"trimodal_gateway_replica_{name}"
        return Gauge(full_name, text, ["replica"], registry=self.registry, multiprocess_mode=mode)


def _of_all_workers(folder: str) -> CollectorRegistry:
    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        # A worker that was killed took its requests with it, but not its gauge.
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return registry


async def _addresses(endpoint: str) -> list[str]:
    try:
        return await addresses_of(endpoint)
    except OSError:
        return []


def _merged(texts: Mapping[str, bytes]) -> bytes:
    """Several servers' texts as one: each metric once, its samples labelled with the replica."""
    found: dict[bytes, list[bytes]] = {}
    for address, text in texts.items():
        label = f'replica="{address}"'.encode()
        for head, samples in METRIC.findall(text):
            labelled = WITH_LABELS.sub(rb"\1{" + label + b",", samples)
            found.setdefault(head, []).append(WITHOUT_LABELS.sub(rb"\1{" + label + b"} ", labelled))
    return b"".join(head + b"".join(samples) for head, samples in found.items())


def _scrape(endpoint: str) -> bytes:
    connection = http.client.HTTPConnection(endpoint, timeout=SCRAPE_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        return response.read() if response.status == 200 else b""
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()
