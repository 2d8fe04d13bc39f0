"""POST /v1/completions: finished prompts, one stream of `llm` for each; their answers are numbered in order."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.answers.replies import Head
from gateway.answers.text import TextChunks, TextCompletion
from gateway.deps import ServicesDep
from gateway.openapi import MODEL, described
from gateway.schemas.answers import TextCompletion as TextAnswer
from gateway.schemas.completions import FIELDS, plan_completion, text_prompts

router = APIRouter(tags=["text"])


@router.post("/v1/completions", **described(TextAnswer, body=FIELDS, events=TextAnswer, errors=MODEL))
async def create_completion(request: Request, services: ServicesDep) -> Response:
    """What follows one or more texts; with `stream: true` as events, the last of them [DONE]."""
    async with admitted(request, services) as answering:
        asked = FIELDS.read(await answering.body())
        model = await services.discovery.find(asked.model, "chat")
        plan = plan_completion(asked)
        prompts = text_prompts(asked) if asked.echo else [""] * len(asked.prompt)
        echoes = [prompt for prompt in prompts for _ in range(asked.num)]
        head = Head(f"cmpl-{uuid.uuid4().hex}", int(time.time()), asked.model or model.ids[0])
        outputs = await answering.ask(model, head.id, plan.inputs, asked.num, plan.names)
        with_logprobs = asked.logprobs is not None
        if not asked.stream:
            return await answering.collected(TextCompletion(head, asked.num, echoes, with_logprobs), outputs)
        reply = TextChunks(head, asked.num, echoes, with_logprobs, asked.include_usage, asked.usage_on_every_chunk)
        return answering.streamed(reply, outputs)
