"""POST /v1/chat/completions: read, admit, ask `llm`, then stream its responses or collect them."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.answers.chat_chunks import ChatChunks
from gateway.answers.chat_completion import ChatCompletion
from gateway.answers.replies import Head
from gateway.deps import ServicesDep
from gateway.openapi import MODEL, described
from gateway.schemas.answers import ChatCompletion as ChatCompletionAnswer
from gateway.schemas.answers import ChatCompletionChunk
from gateway.schemas.chat import FIELDS, read_chat_request

router = APIRouter(tags=["text"])
DESCRIBED = described(ChatCompletionAnswer, body=FIELDS, events=ChatCompletionChunk, errors=MODEL)


@router.post("/v1/chat/completions", **DESCRIBED)
@router.post("/api/v1/chat/completions", **DESCRIBED)
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    """The next message of a chat; with `stream: true` as events, the last of them [DONE]."""
    async with admitted(request, services) as answering:
        chat = read_chat_request(await answering.body())
        model = await services.discovery.find(chat.model, "chat")
        plan = await answering.plan(chat, model)
        head = Head(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), chat.model or model.ids[0])
        outputs = await answering.ask(model, head.id, [plan.inputs], chat.num, plan.names)
        if not chat.stream:
            return await answering.collected(ChatCompletion(head, plan.form, chat.num, bool(chat.logprobs)), outputs)
        on_chunks = chat.usage_on_every_chunk
        reply = ChatChunks(head, plan.form, chat.num, bool(chat.logprobs), chat.include_usage, on_chunks)
        return answering.streamed(reply, outputs)
