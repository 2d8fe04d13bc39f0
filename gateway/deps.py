"""The parts that routes share, made once per app, and their FastAPI alias."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from gateway.control import ModelControl
from gateway.disconnect import until_disconnect
from gateway.discovery import Discovery, ServedModel
from gateway.errors import ClientGone, UpstreamFault
from gateway.fetch import MediaFetcher
from gateway.limits import Admission
from gateway.metrics import Metrics
from gateway.replicas import Replicas
from gateway.settings import Settings, split
from gateway.tensors import Value
from gateway.triton import Triton, TritonStream, read_credentials
from gateway.watch import StreamWatch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Services:
    settings: Settings
    metrics: Metrics
    admission: Admission
    triton: Replicas
    discovery: Discovery
    watch: StreamWatch
    media: MediaFetcher
    videos: MediaFetcher
    sounds: MediaFetcher
    control: ModelControl

    @asynccontextmanager
    async def generation(
        self, model: ServedModel, request_id: str, inputs: Mapping[str, Value]
    ) -> AsyncIterator[TritonStream]:
        """Opens a watched stream; leaving it early cancels the generation in Triton."""
        asked = {**inputs, "lora_name": model.lora_name} if model.lora_name else inputs
        async with self.triton.stream(model.entry, request_id, asked, model.needs, model.steps) as stream:
            with self.watch.watching(stream, model.steps):
                yield stream

    async def once(self, entry: str, inputs: Mapping[str, Value]) -> dict[str, bytes]:
        """Asks an entry that answers with one response."""
        steps = frozenset({entry})
        async with self.triton.stream(entry, "", inputs, steps) as stream:
            with self.watch.watching(stream, steps):
                response = await anext(stream, None)
            stream.finished = True
        if response is None:
            raise UpstreamFault("The model did not answer.")
        return response

    async def while_connected(self, request: Request, work: Coroutine[Any, Any, Result]) -> Result:
        """Awaits `work` for a client whose body has been read; raises ClientGone when the client leaves."""
        try:
            return await until_disconnect(request.receive, work)
        except ClientGone:
            self.metrics.count_gone()
            raise


@asynccontextmanager
async def open_services(settings: Settings, metrics: Metrics) -> AsyncIterator[Services]:
    """Opens the channels and starts discovery; Triton need not be up."""
    credentials = read_credentials(settings)
    triton = Replicas(split(settings.triton_grpc), lambda at, host: Triton(at, credentials, host), metrics)
    discovery = Discovery(triton, settings.discovery_interval_s)
    watch = StreamWatch(settings.watch_interval_s, settings.stream_idle_s, metrics.count_cancel)
    allowed, timeout_s = (settings.allowed_media_hosts, settings.allowed_media_folder), settings.media_timeout_s
    media = MediaFetcher(*allowed, settings.max_image_bytes, timeout_s)
    videos = MediaFetcher(*allowed, settings.max_video_bytes, timeout_s, kind="video")
    sounds = MediaFetcher(*allowed, settings.max_audio_bytes, timeout_s, kind="audio")
    control = ModelControl(triton, discovery, watch, split(settings.loadable_models))
    services = Services(
        settings, metrics, Admission(settings.max_concurrency), triton, discovery, watch, media, videos, sounds, control
    )
    refreshing = asyncio.ensure_future(discovery.run())
    try:
        yield services
    finally:
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await watch.close()
        await media.close()
        await videos.close()
        await sounds.close()
        await control.close()
        await triton.close()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
