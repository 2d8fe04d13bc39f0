"""/api/v1/inference: Model Garden's load, unload, status and generate."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.answers.generated import Generated, GeneratedEvents
from gateway.deps import ServicesDep
from gateway.errors import Forbidden
from gateway.limits import CALLER
from gateway.openapi import ASKED, MODEL, described
from gateway.responses import json_response
from gateway.schemas.answers import Generated as GeneratedAnswer
from gateway.schemas.answers import GeneratedPiece, InferenceStatus, LoadReply, UnloadReply
from gateway.schemas.completions import plan_completion
from gateway.schemas.inference import GENERATE, LOAD

router = APIRouter(prefix="/api/v1/inference", tags=["model garden"])

CHANGE = {403: "This key may not change what is served."}
CONTROL = {
    404: "Model control is off, or nothing is loaded.",
    409: "Another load runs, or it is not one chat model that is served.",
    502: "The model server failed the call.",
    503: "The model server cannot be reached.",
}


@router.post("/load", **described(LoadReply, body=LOAD, errors=ASKED | CHANGE | CONTROL, status=202))
async def load(request: Request, services: ServicesDep) -> Response:
    """Answers 202 at once; `status` tells how it goes on."""
    _check_admin()
    async with admitted(request, services) as answering:
        asked = LOAD.read(await answering.body())
        job = await services.control.load(asked.model_path, asked.options)
    message = f"Loading {asked.model_path}; ask /api/v1/inference/status."
    return json_response({"success": True, "data": job.body(), "message": message}, 202)


@router.post("/unload", **described(UnloadReply, errors=CHANGE | CONTROL))
async def unload(services: ServicesDep) -> Response:
    """Takes the model out of memory when the requests that run have ended."""
    _check_admin()
    model = await services.control.unload()
    data = {"model": model.ids[0], "status": "unloaded"}
    return json_response({"success": True, "data": data, "message": f"{model.ids[0]} is unloaded."})


@router.get("/status", **described(InferenceStatus, errors=CONTROL))
async def status(services: ServicesDep) -> Response:
    """What is loaded, and how the last load went."""
    return json_response(services.control.status())


@router.post("/generate", **described(GeneratedAnswer, body=GENERATE, events=GeneratedPiece, errors=MODEL))
async def generate(request: Request, services: ServicesDep) -> Response:
    """What follows one text; with `stream: true` as events, the last of them [DONE]."""
    async with admitted(request, services) as answering:
        asked = GENERATE.read(await answering.body())
        model = await services.discovery.find(asked.model, "chat")
        plan = plan_completion(asked)
        outputs = await answering.ask(model, f"gen-{uuid.uuid4().hex}", plan.inputs, 1, plan.names)
        if asked.stream:
            return answering.streamed(GeneratedEvents(), outputs)
        return await answering.collected(Generated(asked.model or model.ids[0]), outputs)


def _check_admin() -> None:
    caller = CALLER.get()
    if not caller.is_admin:
        raise Forbidden(f"The key {caller.name} may not load or unload models: it is no admin's.")
