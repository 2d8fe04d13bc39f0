"""The common way of every generating route: open the model's streams, wait for the first word, answer in one form."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request, Response

from gateway.answers.outputs import Generation, Outputs
from gateway.answers.replies import Collected, Streamed, collect, frames
from gateway.answers.spoken_parts import audio_parts, written_down
from gateway.deps import Services
from gateway.discovery import ServedModel
from gateway.limits import Permit, bounded
from gateway.responses import json_response
from gateway.schemas.chat import ChatPlan, ChatRequest, plan_chat
from gateway.schemas.messages import Limits, media_urls, read_prompt
from gateway.sse import KEEP_ALIVE, EventStream, Frames
from gateway.tensors import Value
from gateway.triton import TritonStream


class ModelResponses(Protocol):
    """What a model says to one request; `count` responses, with `num_tokens` of prompt and answer, have been read."""

    count: int

    @property
    def num_tokens(self) -> int: ...
    async def peek(self) -> None: ...


@asynccontextmanager
async def admitted(request: Request, services: Services) -> AsyncIterator[Answering]:
    """Takes a permit, before the body is read: what is refused costs no memory. Raises Overloaded."""
    async with AsyncExitStack() as stack:
        permit = stack.enter_context(services.admission.acquire())
        yield Answering(request, services, stack, permit, time.perf_counter())


@dataclass(frozen=True)
class Answering:
    """One admitted request. `stack` owns the permit and the streams; `started` is on the clock of perf_counter."""

    request: Request
    services: Services
    stack: AsyncExitStack
    permit: Permit
    started: float

    async def body(self) -> bytes:
        """Raises PayloadTooLarge."""
        return await bounded(self.request, self.services.settings.max_body_bytes).body()

    async def plan(self, chat: ChatRequest, model: ServedModel) -> ChatPlan:
        """What the model is asked; first media behind URLs are fetched, and sounds written down.

        Raises InvalidRequest, or Unsupported.
        """
        limits, services = self.services.settings, self.services
        messages, heard = chat.messages, None
        if parts := audio_parts(messages, limits.max_audio_parts):
            messages, heard = await services.while_connected(self.request, written_down(services, messages, parts))
            self.permit.caller.spend(heard.num_audio_tokens)
        images = Limits(limits.max_images, limits.max_image_bytes)
        videos = Limits(limits.max_videos, limits.max_video_bytes)
        fetched = await services.media.fetch_all(media_urls(messages, "image", images.max_count))
        fetched |= await services.videos.fetch_all(media_urls(messages, "video", videos.max_count))
        plan = plan_chat(chat, read_prompt(messages, images, videos, fetched), model)
        return plan._replace(form=plan.form._replace(heard=heard))

    async def ask(
        self,
        model: ServedModel,
        request_id: str,
        inputs: Sequence[Mapping[str, Value]],
        num_sequences: int,
        names: Mapping[str, str],
    ) -> Outputs:
        """Opens one stream per prompt and waits for the first response: an error before it keeps its own status.

        `names` are the client's names for fields that have another one on the wire.
        """
        generations = []
        # Triton refuses an input that an entry does not name.
        more: dict[str, Value] = {"compact": True} if model.may_be_compact else {}
        for index, values in enumerate(inputs):
            name = f"{request_id}-{index}" if index else request_id
            stream = await self.open(model, name, {**values, **more})
            generations.append(Generation(stream, num_sequences, index * num_sequences))
        outputs = Outputs(generations, self.permit, names)
        self.stack.push_async_callback(outputs.close)
        await self.begun(outputs, model)
        return outputs

    async def open(self, model: ServedModel, request_id: str, inputs: Mapping[str, Value]) -> TritonStream:
        """One stream of the model, left with the request."""
        return await self.stack.enter_async_context(self.services.generation(model, request_id, inputs))

    async def begun(self, outputs: ModelResponses, model: ServedModel) -> None:
        """Waits for the first response, and counts at the end of the request what was read until then."""
        self.stack.callback(lambda: self.permit.caller.spend(outputs.num_tokens))
        self.stack.callback(lambda: self.services.metrics.stream_events.inc(outputs.count))
        await self.services.while_connected(self.request, outputs.peek())
        self.services.metrics.first_token.labels(model.ids[0]).observe(time.perf_counter() - self.started)

    async def collected(self, reply: Collected, outputs: Outputs) -> Response:
        return json_response(await self.services.while_connected(self.request, collect(reply, outputs)))

    def streamed(self, reply: Streamed, outputs: Outputs) -> Response:
        return self.events(frames(reply, outputs), reply.keep_alive)

    def events(self, frames: Frames, keep_alive: bytes = KEEP_ALIVE) -> Response:
        """The response owns the streams from now on."""
        interval_s, on_gone = self.services.settings.keep_alive_s, self.services.metrics.count_gone
        return EventStream(frames, self.stack.pop_all(), interval_s, on_gone, keep_alive)
