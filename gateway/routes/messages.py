"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, on the way of a chat."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request, Response

from gateway.answers.answering import admitted
from gateway.answers.message import MessageBody, MessageEvents
from gateway.answers.replies import Head
from gateway.deps import ServicesDep
from gateway.openapi import MODEL, described
from gateway.responses import json_response
from gateway.routes.tokens import ask_tokenizer
from gateway.schemas.anthropic import FIELDS, read_messages_request
from gateway.schemas.message_answers import InputTokens, Message, MessageEvent, MessagesErrorReply
from gateway.schemas.tokens import tokenize_inputs, tokenize_of_chat
from gateway.schemas.translated import in_words_of, wire_names

router = APIRouter(tags=["text"])


@router.post(
    "/v1/messages",
    **described(Message, body=FIELDS, events=MessageEvent, plain_events=False, errors=MODEL, error=MessagesErrorReply),
)
async def create_message(request: Request, services: ServicesDep) -> Response:
    """Anthropic's Messages API; with `stream: true` as its typed events."""
    async with admitted(request, services) as answering:
        chat, paths = read_messages_request(await answering.body())
        model = await services.discovery.find(chat.model, "chat")
        with in_words_of(paths):
            plan = await answering.plan(chat, model)
        head = Head(f"msg_{uuid.uuid4().hex}", int(time.time()), chat.model or model.ids[0])
        body = MessageBody(head, plan.form, chat.stop or ())
        outputs = await answering.ask(model, head.id, [plan.inputs], 1, wire_names(plan, paths))
        if chat.stream:
            return answering.streamed(MessageEvents(body), outputs)
        return await answering.collected(body, outputs)


@router.post("/v1/messages/count_tokens", **described(InputTokens, body=FIELDS, errors=MODEL, error=MessagesErrorReply))
async def count_message_tokens(request: Request, services: ServicesDep) -> Response:
    """The number of tokens of the prompt; images are refused."""
    async with admitted(request, services) as answering:
        chat, paths = read_messages_request(await answering.body(), counted=True)
        model = await services.discovery.find(chat.model, "chat")
        with in_words_of(paths):
            inputs = tokenize_inputs(tokenize_of_chat(chat))
        output = await ask_tokenizer(services, model, inputs, {})
    return json_response({"input_tokens": len(output.ids)})
