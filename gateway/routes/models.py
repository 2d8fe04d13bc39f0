"""GET /v1/models and /v1/models/{id}: what discovery knows; never waits for Triton unless an id is unknown."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.deps import ServicesDep
from gateway.errors import ModelNotFound, Unavailable
from gateway.openapi import FOUND, described
from gateway.responses import json_response
from gateway.schemas.answers import ModelCard, ModelList

router = APIRouter(tags=["models"])

STARTING = {503: "The first models are still loading."}


@router.get("/v1/models", **described(ModelList, errors=STARTING))
@router.get("/api/v1/models", **described(ModelList, errors=STARTING))
async def list_models(services: ServicesDep) -> Response:
    """The models that this key may use, under all their names."""
    discovery = services.discovery
    # An empty list would look like an answer to those who wait for the server.
    if discovery.is_starting:
        raise Unavailable("No model is served yet.")
    return json_response({"object": "list", "data": [discovery.card(model_id) for model_id in discovery.visible_ids()]})


@router.get("/v1/models/{model_id:path}", **described(ModelCard, errors=FOUND))
@router.get("/api/v1/models/{model_id:path}", **described(ModelCard, errors=FOUND))
async def retrieve_model(model_id: str, services: ServicesDep) -> Response:
    """One model; an id may hold slashes."""
    if model_id not in services.discovery.visible_ids():
        raise ModelNotFound(f"The model {model_id[:200]!r} does not exist, or this key may not use it.", "model")
    return json_response(services.discovery.card(model_id))
