"""The gateway's own Prometheus metrics, and Triton's beside them."""

from __future__ import annotations

import asyncio
import http.client

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Dense where interactive answers lie, up to the limit on silence.
FIRST_TOKEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 60)
SCRAPE_TIMEOUT_S = 1.0


class Metrics:
    """One registry per app. Reasons of a cancel: client_gone, model_down, idle."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "trimodal_gateway_requests", "Answered requests", ["route", "status"], registry=self.registry
        )
        self.in_flight = Gauge("trimodal_gateway_requests_in_flight", "Requests being served", registry=self.registry)
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

    def count_cancel(self, reason: str) -> None:
        self.cancels.labels(reason).inc()

    def count_gone(self) -> None:
        self.count_cancel("client_gone")

    async def render(self, triton_endpoint: str) -> bytes:
        """Prometheus text; Triton's part is missing while its endpoint cannot be reached."""
        # http.client knows no asyncio, and a client library would be a dependency for one GET.
        own = generate_latest(self.registry)
        return own + (await asyncio.to_thread(_scrape, triton_endpoint) if triton_endpoint else b"")


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
