"""Audio in a chat: what is said in it, by the served speech model, as text at the place of the part.

Knows the parts `input_audio` (OpenAI) and `audio_url` (vLLM). The chat model sees text.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.answers.transcript import Transcript, TranscriptOutputs
from gateway.answers.usage import Heard
from gateway.deps import Services
from gateway.discovery import ServedModel
from gateway.errors import GatewayError, InvalidRequest, PayloadTooLarge, Unsupported
from gateway.media import media_bytes, remote_url
from gateway.schemas.messages import AUDIO_KINDS, ChatMessage


class AudioPart(NamedTuple):
    """The part `place` of message `message`; `reference` is base64 or a URL, and stands in the field `path`."""

    message: int
    place: int
    path: str
    reference: str

    @property
    def url(self) -> str | None:
        return remote_url(self.reference) if self.path.endswith(".url") else None


def audio_parts(messages: Sequence[ChatMessage], max_parts: int) -> list[AudioPart]:
    """Raises InvalidRequest with the path of a part that is wrong, or where there are more than `max_parts`."""
    parts = [
        AudioPart(i, j, *_reference(part, f"messages.{i}.content.{j}"))
        for i, message in enumerate(messages)
        for j, part in enumerate(message.content if isinstance(message.content, list) else [])
        if isinstance(part, dict) and part.get("type") in tuple(AUDIO_KINDS)
    ]
    if len(parts) > max_parts:
        text = f"At most {max_parts} audio parts are allowed in one request, got {len(parts)}."
        raise InvalidRequest(text, "messages")
    return parts


async def written_down(
    services: Services, messages: Sequence[ChatMessage], parts: Sequence[AudioPart]
) -> tuple[list[ChatMessage], Heard]:
    """The messages with texts where `parts` were; all recordings are transcribed at the same time.

    Raises InvalidRequest or Unsupported with the path of the part; Unsupported also where no speech model is served.
    """
    model = await _speech_model(services, parts[0].path)
    fetched = await services.sounds.fetch_all({part.url: part.path for part in reversed(parts) if part.url})
    sounds = [_sound(part, fetched, services.settings.max_audio_bytes) for part in parts]
    tasks = [
        asyncio.ensure_future(_transcript(services, model, sound, part.path))
        for sound, part in zip(sounds, parts, strict=True)
    ]
    try:
        found = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    contents = {part.message: list(messages[part.message].content) for part in parts}
    for part, transcript in zip(parts, found, strict=True):
        text = _set_apart(transcript.text.strip(), contents[part.message], part.place)
        contents[part.message][part.place] = {"type": "text", "text": text}
    told = [
        message.model_copy(update={"content": contents[i]}) if i in contents else message
        for i, message in enumerate(messages)
    ]
    return told, Heard(model.ids[0], sum(each.last.num_audio_tokens for each in found if each.last))


def _reference(part: Mapping[str, Any], path: str) -> tuple[str, str]:
    """Where base64 or URL of a part stands, and what it is."""
    kind = part["type"]
    key, inner = AUDIO_KINDS[kind], part.get(kind)
    reference = inner.get(key) if isinstance(inner, dict) else None
    if not isinstance(reference, str) or not reference:
        raise InvalidRequest(f"{kind} must be an object with the text {key!r}", f"{path}.{kind}")
    return f"{path}.{kind}.{key}", reference


def _set_apart(text: str, content: Sequence[Any], place: int) -> str:
    """With a space where a text stands beside it: templates put parts together without one."""
    before = content[place - 1].get("text") if place and isinstance(content[place - 1], dict) else None
    after = content[place + 1].get("text") if content[place + 1 :] and isinstance(content[place + 1], dict) else None
    needs_before = isinstance(before, str) and before and not before[-1].isspace()
    needs_after = isinstance(after, str) and after and not after[0].isspace()
    return " " * bool(needs_before) + text + " " * bool(needs_after)


def _sound(part: AudioPart, fetched: Mapping[str, bytes], max_bytes: int) -> bytes:
    if part.url:
        return fetched[part.url]
    try:
        return media_bytes(part.reference, part.path, max_bytes, "audio")
    except PayloadTooLarge as error:
        raise InvalidRequest(str(error), error.param, error.code) from None


async def _speech_model(services: Services, path: str) -> ServedModel:
    try:
        return await services.discovery.find(None, "transcription")
    except GatewayError as error:
        raise Unsupported("audio needs a speech model, and there is not exactly one served", path) from error


async def _transcript(services: Services, model: ServedModel, audio: bytes, path: str) -> Transcript:
    longest, transcript = services.settings.max_audio_part_s, Transcript()
    request_id = f"spoken-{uuid.uuid4().hex}"
    try:
        async with services.generation(model, request_id, {"audio": audio, "stream": True}) as stream:
            outputs = TranscriptOutputs(stream)
            while not outputs.ended:
                output = await outputs.next()
                # Leaving the stream ends the work on the rest of the recording.
                if output.duration > longest:
                    raise InvalidRequest(f"the audio is longer than {longest:g} seconds", path)
                transcript.add(output)
    except GatewayError as error:
        raise error.under({"file": path}) from None
    return transcript
