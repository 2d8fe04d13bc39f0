"""POST /v1/audio/transcriptions and /translations: read the form, admit, ask the speech model, answer in its format."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile
from starlette.responses import PlainTextResponse

from gateway.answers.answering import Answering, admitted
from gateway.answers.transcript import Transcript, TranscriptOutputs, collect_transcript, transcript_events
from gateway.deps import Services, ServicesDep
from gateway.errors import InvalidRequest, PayloadTooLarge
from gateway.limits import bounded
from gateway.openapi import MODEL, described
from gateway.responses import json_response
from gateway.schemas.answers import TranscriptEvent, Transcription, VerboseTranscription
from gateway.schemas.audio import (
    TRANSCRIPTION,
    TRANSLATION,
    TranscriptionRequest,
    read_transcription_request,
    read_translation_request,
    transcription_inputs,
)
from gateway.subtitles import srt, vtt

router = APIRouter(tags=["speech"])
ANSWERS = (Transcription, VerboseTranscription)

# What the form may add to the file: boundaries, headers and the other fields.
FORM_OVERHEAD_BYTES = 256 * 1024
MAX_FIELDS = 64


@router.post(
    "/v1/audio/transcriptions",
    **described(*ANSWERS, form=TRANSCRIPTION, texts=["text/plain"], events=TranscriptEvent, errors=MODEL),
)
async def create_transcription(request: Request, services: ServicesDep) -> Response:
    """What is said in an audio file; with `stream: true` as events, the last of them [DONE]."""
    return await _transcribe(request, services, read_transcription_request)


@router.post("/v1/audio/translations", **described(*ANSWERS, form=TRANSLATION, texts=["text/plain"], errors=MODEL))
async def create_translation(request: Request, services: ServicesDep) -> Response:
    """What is said in an audio file, in English."""
    return await _transcribe(request, services, read_translation_request)


async def _transcribe(
    request: Request, services: Services, read: Callable[[FormData], TranscriptionRequest]
) -> Response:
    async with admitted(request, services) as answering:
        async with _form(answering) as form:
            asked = read(form)
            audio = await _read_file(form, services.settings.max_audio_bytes)
        model = await services.discovery.find(asked.model, "transcription")
        stream = await answering.open(model, f"transcr-{uuid.uuid4().hex}", transcription_inputs(asked, audio))
        outputs = TranscriptOutputs(stream, answering.permit)
        await answering.begun(outputs, model)
        if asked.stream:
            return answering.events(transcript_events(outputs, asked.with_logprobs))
        return _response(asked, await services.while_connected(request, collect_transcript(outputs)))


def _response(asked: TranscriptionRequest, transcript: Transcript) -> Response:
    if asked.response_format == "json":
        return json_response(transcript.body(asked.with_logprobs))
    if asked.response_format == "verbose_json":
        return json_response(transcript.verbose_body(asked.task, asked.granularities))
    if asked.response_format == "text":
        return PlainTextResponse(transcript.text.strip())
    return PlainTextResponse((srt if asked.response_format == "srt" else vtt)(transcript.segments))


def _form(answering: Answering) -> AbstractAsyncContextManager[FormData]:
    limit = answering.services.settings.max_audio_bytes + FORM_OVERHEAD_BYTES
    return bounded(answering.request, limit).form(max_files=1, max_fields=MAX_FIELDS)


async def _read_file(form: FormData, max_bytes: int) -> bytes:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidRequest("the form (multipart/form-data) must hold an audio file", "file", "missing_required")
    # The form as a whole was bounded before it was read; this is the exact limit of its main part.
    if file.size is not None and file.size > max_bytes:
        raise PayloadTooLarge(f"The file is larger than {max_bytes} bytes.", "file")
    return await file.read()
