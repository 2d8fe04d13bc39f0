"""POST /v1/responses: OpenAI's newer API, on the way of a chat."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.answers.replies import Head
from gateway.answers.response import ResponseBody, ResponseEvents
from gateway.deps import ServicesDep
from gateway.openapi import MODEL, described
from gateway.schemas.response_answers import Events
from gateway.schemas.response_answers import Response as ResponseAnswer
from gateway.schemas.responses import FIELDS, read_responses_request
from gateway.schemas.translated import in_words_of, wire_names

router = APIRouter(tags=["text"])


@router.post("/v1/responses", **described(ResponseAnswer, body=FIELDS, events=Events, plain_events=False, errors=MODEL))
async def create_response(request: Request, services: ServicesDep) -> Response:
    """OpenAI's Responses API; with `stream: true` as its typed events."""
    async with admitted(request, services) as answering:
        chat, paths, values = read_responses_request(await answering.body())
        model = await services.discovery.find(chat.model, "chat")
        with in_words_of(paths):
            plan = await answering.plan(chat, model)
        head = Head(f"resp_{uuid.uuid4().hex}", int(time.time()), chat.model or model.ids[0])
        body = ResponseBody(head, plan.form, bool(chat.logprobs), values)
        outputs = await answering.ask(model, head.id, [plan.inputs], 1, wire_names(plan, paths))
        if chat.stream:
            return answering.streamed(ResponseEvents(body), outputs)
        return await answering.collected(body, outputs)
