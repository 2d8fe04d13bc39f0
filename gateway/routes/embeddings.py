"""POST /v1/embeddings: refused, with the reason; no entry of this repository makes embeddings."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.deps import ServicesDep
from gateway.errors import Unsupported
from gateway.openapi import ASKED, FOUND, described
from gateway.schemas.tokens import EMBEDDINGS as FIELDS

router = APIRouter(tags=["models"])


@router.post("/v1/embeddings", **described(body=FIELDS, errors=ASKED | FOUND))
async def create_embeddings(request: Request, services: ServicesDep) -> Response:
    """Refused: no model here makes embeddings. 404 for an unknown model, else 400."""
    async with admitted(request, services) as answering:
        name = FIELDS.read(await answering.body()).model
        if name is not None:
            await services.discovery.find(name, "embedding")
        raise Unsupported("No model that is served makes embeddings.", "model")
