"""POST /v1/chat/completions: read, admit, ask `llm`, then stream its responses or collect them."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request, Response

from gateway.chunks import ChunkWriter, Completion, Usage
from gateway.deps import Services, ServicesDep
from gateway.discovery import ServedModel
from gateway.errors import GatewayError, InternalFault, Unavailable, Unsupported, UpstreamFault
from gateway.limits import Permit, bounded
from gateway.responses import json_response
from gateway.schemas.chat import ChatRequest, Prompt, chat_inputs, read_chat_request, read_prompt
from gateway.sse import DONE, EventStream, Frames, error_event
from gateway.tensors import ChatOutput, chat_output
from gateway.triton import TritonStream

log = logging.getLogger("trimodal.gateway")
router = APIRouter()


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        # Admission comes before the body is read: what is refused costs no memory.
        permit = stack.enter_context(services.admission.acquire())
        chat = read_chat_request(await bounded(request, services.settings.max_body_bytes).body())
        model = await services.discovery.find(chat.model, "chat")
        prompt = _read_prompt(chat, model, services)
        completion = Completion(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), chat.model or model.ids[0])
        generation = services.generation(model, completion.completion_id, chat_inputs(chat, prompt))
        outputs = ChatOutputs(await stack.enter_async_context(generation), permit, chat.max_tokens_field)
        stack.callback(lambda: services.metrics.stream_events.inc(outputs.count))
        first = await services.while_connected(request, outputs.next())
        services.metrics.first_token.labels(model.ids[0]).observe(time.perf_counter() - started)
        if not chat.stream:
            return await services.while_connected(request, _collect(chat, completion, first, outputs))
        # The status line is sent only now: an error before the first token keeps its own status.
        frames = _frames(chat, completion, first, outputs)
        return EventStream(frames, stack.pop_all(), services.settings.keep_alive_s, services.metrics.count_gone)


class ChatOutputs:
    """The responses of one generation; one that says why it ends is the last.

    The permit goes back with the last one: a client that has read its end must not meet its own shadow at the door.
    """

    def __init__(self, stream: TritonStream, permit: Permit, max_tokens_field: str) -> None:
        self.count = 0
        self._stream = stream
        self._permit = permit
        self._max_tokens_field = max_tokens_field

    async def next(self) -> ChatOutput:
        """Raises GatewayError; also for a stream that ends without a finish_reason."""
        try:
            raw = await anext(self._stream, None)
        except GatewayError as error:
            self._permit.release()
            # The tensor has OpenAI's old name; the client must find the name it used.
            if error.param == "max_tokens":
                raise error.renamed(self._max_tokens_field) from None
            raise
        if raw is None:
            raise UpstreamFault("The model ended its answer without a finish_reason.")
        self.count += 1
        output = chat_output(raw)
        if output.finish_reason:
            self._permit.release()
            self._stream.finished = True
            if output.finish_reason == "abort":
                raise Unavailable("The generation was aborted.", code="aborted")
        return output


def _read_prompt(chat: ChatRequest, model: ServedModel, services: Services) -> Prompt:
    limits = services.settings
    prompt = read_prompt(chat.messages, limits.max_images, limits.max_image_bytes)
    if prompt.images and "image" not in model.input_modalities:
        raise Unsupported(f"The model {model.ids[0]!r} takes no images.", "messages")
    return prompt


async def _collect(chat: ChatRequest, completion: Completion, output: ChatOutput, outputs: ChatOutputs) -> Response:
    completion.add(output)
    while not output.finish_reason:
        output = await outputs.next()
        completion.add(output)
    return json_response(completion.body(bool(chat.logprobs)))


async def _frames(chat: ChatRequest, completion: Completion, output: ChatOutput, outputs: ChatOutputs) -> Frames:
    """Role, content, finish, usage when asked, DONE; or an error event and nothing after it."""
    usage = Usage()
    on_chunks = usage if chat.usage_on_every_chunk else None
    writer = ChunkWriter(completion.completion_id, completion.created, completion.model, on_chunks)
    try:
        usage.add(output)
        # Both in one piece: the first response is there already, and one write is one packet.
        yield writer.role() + _content(writer, output, chat)
        while not output.finish_reason:
            output = await outputs.next()
            usage.add(output)
            if frame := _content(writer, output, chat):
                yield frame
    except GatewayError as error:
        yield error_event(error)
        return
    except Exception:  # a fault of ours after the status line: all that is left is an event
        log.exception("internal fault in a stream")
        yield error_event(InternalFault())
        return
    yield writer.finish(output.finish_reason, output.stop_reason)
    if chat.include_usage:
        yield writer.usage(usage)
    yield DONE


def _content(writer: ChunkWriter, output: ChatOutput, chat: ChatRequest) -> bytes:
    """A token without text (half a character, a possible stop text) makes no chunk, unless its logprobs are wanted."""
    logprobs = output.logprobs if chat.logprobs else b""
    return writer.content(output.text, logprobs) if output.text or logprobs else b""
