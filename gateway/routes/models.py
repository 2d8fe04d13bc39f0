"""GET /v1/models and /v1/models/{id}: what discovery knows; never waits for Triton unless an id is unknown."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.deps import ServicesDep
from gateway.errors import ModelNotFound
from gateway.responses import json_response

router = APIRouter()


@router.get("/v1/models")
async def list_models(services: ServicesDep) -> Response:
    discovery = services.discovery
    cards = [model.card(model_id, discovery.created) for model_id, model in discovery.models.items()]
    return json_response({"object": "list", "data": cards})


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str, services: ServicesDep) -> Response:
    model = services.discovery.models.get(model_id)
    if model is None:
        raise ModelNotFound(f"The model {model_id[:200]!r} does not exist.", "model")
    return json_response(model.card(model_id, services.discovery.created))
