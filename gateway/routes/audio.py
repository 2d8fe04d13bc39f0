"""POST /v1/audio/transcriptions: read the form, admit, ask `transcription`, answer as JSON or plain text."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile
from starlette.responses import PlainTextResponse

from gateway.deps import ServicesDep
from gateway.errors import InvalidRequest, PayloadTooLarge, UpstreamFault
from gateway.limits import bounded
from gateway.responses import json_response
from gateway.schemas.audio import read_transcription_request, transcription_body, transcription_inputs
from gateway.tensors import TranscriptionOutput, transcription_output
from gateway.triton import TritonStream

router = APIRouter()

# What the form may add to the file: boundaries, headers and the other fields.
FORM_OVERHEAD_BYTES = 256 * 1024


@router.post("/v1/audio/transcriptions")
async def create_transcription(request: Request, services: ServicesDep) -> Response:
    started = time.perf_counter()
    limit = services.settings.max_audio_bytes
    with services.admission.acquire():
        async with bounded(request, limit + FORM_OVERHEAD_BYTES).form(max_files=1, max_fields=64) as form:
            asked = read_transcription_request(form)
            audio = await _read_file(form, limit)
        model = await services.discovery.find(asked.model, "transcription")
        inputs = transcription_inputs(asked, audio)
        async with services.generation(model, f"transcr-{uuid.uuid4().hex}", inputs) as stream:
            output = await services.while_connected(request, _collect(stream))
        services.metrics.first_token.labels(model.ids[0]).observe(time.perf_counter() - started)
    if asked.response_format == "text":
        return PlainTextResponse(output.text)
    return json_response(transcription_body(output))


async def _read_file(form: FormData, max_bytes: int) -> bytes:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidRequest("the form (multipart/form-data) must hold an audio file", "file", "missing_required")
    # The form as a whole was bounded before it was read; this is the exact limit of its main part.
    if file.size is not None and file.size > max_bytes:
        raise PayloadTooLarge(f"The file is larger than {max_bytes} bytes.", "file")
    return await file.read()


async def _collect(stream: TritonStream) -> TranscriptionOutput:
    """Joins the texts of all responses; raises UpstreamFault when none says why it ends."""
    texts = []
    async for raw in stream:
        output = transcription_output(raw)
        texts.append(output.text)
        if output.finish_reason:
            stream.finished = True
            return output._replace(text="".join(texts))
    raise UpstreamFault("The model ended its answer without a finish_reason.")
