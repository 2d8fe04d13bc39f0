"""One realtime session: client events in, server events out, and the model asked in between.

Knows OpenAI's event names; knows nothing of WebSockets. Sound is taken in all the time; one task asks the model, for
committed items first and for partial results when there is time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.answers.transcript import Transcript, TranscriptOutputs, collect_transcript
from gateway.deps import Services
from gateway.errors import GatewayError, InvalidRequest, Overloaded, Unsupported
from gateway.limits import CALLER
from gateway.realtime.config import SessionConfig, updated
from gateway.realtime.partials import AgreedText
from gateway.realtime.sound import SoundBuffer
from gateway.realtime.turns import TurnDetector
from gateway.tensors import Value

log = logging.getLogger("trimodal.gateway")

Send = Callable[[dict[str, Any]], Awaitable[None]]

# Bounds of what a session may hold: seconds not committed, and items that wait for the model.
MAX_BUFFER_S = 180.0
MAX_ITEMS = 16
# OpenAI refuses to commit less.
_SHORTEST_MS = 100
# A partial result is worth a look at the model after so much more sound, and within one window of the model only.
_PARTIAL_MS = 700
_LAST_PARTIAL_MS = 30_000
_UPDATES = {"session.update": "session.updated", "transcription_session.update": "transcription_session.updated"}


@dataclass
class _Item:
    """A turn, or the part of one that was said so far."""

    id: str = field(default_factory=lambda: f"item_{uuid.uuid4().hex[:20]}")
    text: AgreedText = field(default_factory=AgreedText)
    wav: bytes = b""


class RealtimeSession:
    """`send` puts an event on the wire. Run `work` beside whatever calls `take`."""

    def __init__(self, services: Services, send: Send, model: str | None) -> None:
        self.id = f"sess_{uuid.uuid4().hex[:20]}"
        self._services = services
        self._send_event = send
        self._config = SessionConfig()
        if model:
            self._config = updated(self._config, {"audio": {"input": {"transcription": {"model": model}}}})
        self._item = _Item()
        self._last_item_id: str | None = None
        self._committed: deque[_Item] = deque()
        self._news = asyncio.Event()
        self._tried_ms = 0
        self._buffer = SoundBuffer(self._config.form, MAX_BUFFER_S)
        self._detector: TurnDetector | None = None
        self._restart()

    def __repr__(self) -> str:
        return f"<RealtimeSession {self._buffer!r}, {len(self._committed)} items waiting>"

    async def open(self) -> None:
        await self._send("session.created", session=self._config.body(self.id))

    async def take(self, event: Any) -> None:
        """Handles one client event; what is wrong with it is said in an error event."""
        event_id = event.get("event_id") if isinstance(event, dict) else None
        try:
            await self._handle(event if isinstance(event, dict) else {})
        except GatewayError as error:
            await self.say_error(error, event_id if isinstance(event_id, str) else None)

    async def say_error(self, error: GatewayError, event_id: str | None = None) -> None:
        await self._send("error", error={**error.body["error"], "event_id": event_id})

    async def work(self) -> None:
        """Asks the model for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._committed:
                await self._complete(self._committed[0])
                self._committed.popleft()
            if self._partial_is_due():
                await self._tell_partial()

    async def _handle(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind in _UPDATES:
            await self._update(event.get("session"), _UPDATES[kind])
        elif kind == "input_audio_buffer.append":
            await self._append(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            self._restart()
            await self._send("input_audio_buffer.cleared")
        else:
            raise Unsupported(f"The event type {str(kind)[:100]!r} is not known in a transcription session.", "type")

    async def _update(self, session: Any, answer: str) -> None:
        config = updated(self._config, session)
        if config.speech.model:
            await self._services.discovery.find(config.speech.model, "transcription")
        changed = (config.form, config.turn_detection) != (self._config.form, self._config.turn_detection)
        if changed and self._buffer.duration_ms:
            raise InvalidRequest("format and turn_detection can change only while the buffer is empty", "session")
        self._config = config
        if changed:
            self._restart()
        await self._send(answer, session=config.body(self.id))

    def _restart(self) -> None:
        """An empty buffer, and a detector that knows of nothing said before."""
        start_ms = self._buffer.end_ms
        self._buffer = SoundBuffer(self._config.form, MAX_BUFFER_S, start_ms)
        self._detector = None
        if detection := self._config.turn_detection:
            self._detector = TurnDetector(detection.threshold, detection.silence_duration_ms, start_ms)
        self._item, self._tried_ms = _Item(), start_ms

    async def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise InvalidRequest("audio must be base64", "audio") from None
        if not self._buffer.fits(data):
            text = f"the buffer holds {MAX_BUFFER_S:g} seconds; commit or clear it"
            raise Overloaded(text, "audio", "input_audio_buffer_full")
        known_ms = self._buffer.end_ms
        self._buffer.append(data)
        if self._detector is not None:
            await self._follow_turns(self._detector, self._config.form.for_detection(self._buffer.since(known_ms)))
        self._news.set()

    async def _follow_turns(self, detector: TurnDetector, samples: Any) -> None:
        detection = self._config.turn_detection
        assert detection is not None
        for turn in detector.feed(samples):
            if turn.speaking:
                start_ms = max(self._buffer.start_ms, turn.at_ms - detection.prefix_padding_ms)
                self._buffer.forget_before(start_ms)
                await self._send("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self._item.id)
            else:
                await self._send("input_audio_buffer.speech_stopped", audio_end_ms=turn.at_ms, item_id=self._item.id)
                await self._commit()
        if not detector.speaking:
            # Silence is not kept, but for what may turn out to be the beginning of a word.
            self._buffer.forget_before(self._buffer.end_ms - detection.prefix_padding_ms - 500)

    async def _commit(self) -> None:
        if self._buffer.duration_ms < _SHORTEST_MS:
            text = f"the buffer holds {self._buffer.duration_ms} ms; at least {_SHORTEST_MS} ms must be committed"
            raise InvalidRequest(text, code="input_audio_buffer_commit_empty")
        if len(self._committed) >= MAX_ITEMS:
            raise Overloaded(f"{MAX_ITEMS} items are waiting to be transcribed already")
        item, before = self._item, self._last_item_id
        item.wav = self._buffer.wav()
        self._last_item_id = item.id
        self._buffer.clear()
        self._item, self._tried_ms = _Item(), self._buffer.start_ms
        self._committed.append(item)
        self._news.set()
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=before)
        content = [{"type": "input_audio", "transcript": None}]
        body = {"id": item.id, "object": "realtime.item", "type": "message", "role": "user", "content": content}
        await self._send("conversation.item.added", previous_item_id=before, item={**body, "status": "completed"})

    async def _complete(self, item: _Item) -> None:
        """The last word about an item, or why there is none."""
        try:
            transcript = await self._ask(item.wav, final=True)
        except GatewayError as error:
            await self._of_item("failed", item, error=error.body["error"])
            return
        text = transcript.text.strip()
        await self._tell(item, item.text.finish(text))
        seconds = {"type": "duration", "seconds": math.ceil(transcript.last.duration) if transcript.last else 0}
        logprobs = {"logprobs": transcript.logprobs} if self._config.with_logprobs else {}
        await self._of_item("completed", item, transcript=text, usage=seconds, **logprobs)

    def _partial_is_due(self) -> bool:
        speaking = self._detector is None or self._detector.speaking
        new_ms = self._buffer.end_ms - max(self._tried_ms, self._buffer.start_ms)
        return speaking and new_ms >= _PARTIAL_MS and self._buffer.duration_ms <= _LAST_PARTIAL_MS

    async def _tell_partial(self) -> None:
        item, self._tried_ms = self._item, self._buffer.end_ms
        try:
            transcript = await self._ask(self._buffer.wav(), final=False)
        except GatewayError:
            # The same will be said of the whole item, if it is still true then.
            return
        # Meanwhile the item may have been cleared, or committed: then its whole text is next.
        if item is self._item:
            await self._tell(item, item.text.read(transcript.text.strip()))

    async def _tell(self, item: _Item, delta: str) -> None:
        if delta:
            await self._of_item("delta", item, delta=delta)

    async def _ask(self, wav: bytes, final: bool) -> Transcript:
        """Raises GatewayError. A partial result is not worth a second try at another temperature."""
        speech = self._config.speech
        model = await self._services.discovery.find(speech.model, "transcription")
        optional: dict[str, Value | None] = {
            "language": speech.language,
            "prompt": speech.prompt,
            "temperature": None if final else 0.0,
            "return_log_probs": True if final and self._config.with_logprobs else None,
        }
        inputs: dict[str, Value] = {"audio": wav, "stream": True}
        inputs |= {name: value for name, value in optional.items() if value is not None}
        async with self._services.generation(model, f"realtime-{uuid.uuid4().hex}", inputs) as stream:
            outputs = TranscriptOutputs(stream)
            transcript = await collect_transcript(outputs)
        if final:
            CALLER.get().spend(outputs.num_tokens)
        return transcript

    async def _of_item(self, kind: str, item: _Item, **fields: Any) -> None:
        name = f"conversation.item.input_audio_transcription.{kind}"
        await self._send(name, item_id=item.id, content_index=0, **fields)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._send_event({"type": kind, "event_id": f"event_{uuid.uuid4().hex[:20]}", **fields})
