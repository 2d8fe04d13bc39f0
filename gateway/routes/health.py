"""/liveness, /readiness, /health and /metrics; the first three answer from memory and never wait for Triton."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.deps import ServicesDep
from gateway.discovery import Discovery, ServedModel
from gateway.errors import Unavailable
from gateway.openapi import described
from gateway.responses import json_response
from gateway.schemas.answers import Health, Status
from gateway.settings import split

router = APIRouter(tags=["operation"])


@router.get("/liveness", **described(Status))
async def liveness() -> Response:
    """Whether the gateway runs."""
    return json_response({"status": "live"})


@router.get("/readiness", **described(Status, errors={503: "Something is not ready; the message names it."}))
async def readiness(services: ServicesDep) -> Response:
    """Whether every model is ready."""
    trouble = _trouble(services.discovery)
    if trouble:
        raise Unavailable(f"Not ready: {trouble}.", code="not_ready")
    return json_response({"status": "ready"})


@router.get("/health", **described(Health, errors={503: "Something is not ready; the body says what."}, error=Health))
async def health(services: ServicesDep) -> Response:
    """What is ready and what is not."""
    discovery = services.discovery
    trouble = _trouble(discovery)
    body = {
        "status": "unready" if trouble else "ready",
        "trouble": trouble or None,
        "triton": "live" if discovery.live else "down",
        "models": {model.ids[0]: _model_state(model, discovery) for model in discovery.unique_models},
    }
    return json_response(body, 503 if trouble else 200)


@router.get("/metrics", **described(texts=["text/plain"]))
async def metrics(services: ServicesDep) -> Response:
    """Prometheus text: the gateway's own numbers and Triton's."""
    text = await services.metrics.render(split(services.settings.triton_metrics))
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _trouble(discovery: Discovery) -> str:
    """Says what keeps the system from being ready, or nothing."""
    if not discovery.live:
        return "Triton cannot be reached"
    if not discovery.models:
        return "no model is served"
    entries = {name for model in discovery.unique_models for name in discovery.unready(model)} | discovery.loading
    return ", ".join(f"{name} is {discovery.state_of(name).state or 'not loaded'}" for name in sorted(entries))


def _model_state(model: ServedModel, discovery: Discovery) -> dict[str, Any]:
    return {
        "task": model.task,
        "ready": not discovery.unready(model),
        "entries": {name: discovery.state_of(name).state for name in sorted(model.needs)},
    }
