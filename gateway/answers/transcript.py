"""From the responses of the speech model to an answer: one body, a text, or a stream of transcript events."""

from __future__ import annotations

import logging
import math
from typing import Any

import orjson

from gateway.errors import GatewayError, InternalFault, UpstreamFault
from gateway.limits import Permit
from gateway.sse import DONE, Frames, error_event
from gateway.tensors import TranscriptionOutput, transcription_output
from gateway.triton import TritonStream

log = logging.getLogger("trimodal.gateway")

# The client's names for what has another one on the wire.
NAMES = {"word_timestamps": "timestamp_granularities", "timestamps": "response_format"}


class TranscriptOutputs:
    """Reads one stream of the speech model. The permit, if there is one, goes back with the last response."""

    def __init__(self, stream: TritonStream, permit: Permit | None = None) -> None:
        self.ended = False
        self.count = 0
        self.num_tokens = 0
        self._stream = stream
        self._permit = permit
        self._first: TranscriptionOutput | None = None

    async def peek(self) -> None:
        """Waits for the first response, which `next` will return: an error before it keeps its own status."""
        self._first = await self._read()

    async def next(self) -> TranscriptionOutput:
        """Raises GatewayError; also for a stream that does not say why it ends."""
        first, self._first = self._first, None
        output = first or await self._read()
        self.ended = bool(output.finish_reason)
        return output

    async def _read(self) -> TranscriptionOutput:
        try:
            raw = await anext(self._stream, None)
        except GatewayError as error:
            self._release()
            raise error.under(NAMES) from None
        if raw is None:
            raise UpstreamFault("The model ended its answer without a finish_reason.")
        output = transcription_output(raw)
        self.count += 1
        self.num_tokens += output.num_output_tokens
        if output.finish_reason:
            self.num_tokens += output.num_audio_tokens + output.num_prompt_tokens
            self._stream.finished = True
            self._release()
        return output

    def _release(self) -> None:
        if self._permit is not None:
            self._permit.release()


class Transcript:
    """What the responses add up to; times are in seconds."""

    def __init__(self) -> None:
        self.text = ""
        self.segments: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.num_output_tokens = 0
        self.last: TranscriptionOutput | None = None

    def add(self, output: TranscriptionOutput) -> None:
        self.text += output.text
        self.segments += orjson.loads(output.segments) if output.segments else []
        self.logprobs += orjson.loads(output.logprobs) if output.logprobs else []
        self.num_output_tokens += output.num_output_tokens
        self.last = output

    def body(self, with_logprobs: bool) -> dict[str, Any]:
        """The `json` answer."""
        logprobs = {"logprobs": self.logprobs} if with_logprobs else {}
        return {"text": self.text.strip(), **logprobs, "usage": self.seconds_used}

    def verbose_body(self, task: str, granularities: tuple[str, ...]) -> dict[str, Any]:
        assert self.last is not None
        # The text of a translation is English, whatever was spoken.
        language = "english" if task == "translate" else self.last.language_name
        body = {"task": task, "language": language, "duration": round(self.last.duration, 3), "text": self.text.strip()}
        words = [word for segment in self.segments for word in segment.pop("words", [])]
        if "word" in granularities:
            body["words"] = words
        if "segment" in granularities:
            body["segments"] = self.segments
        return {**body, "usage": self.seconds_used}

    @property
    def seconds_used(self) -> dict[str, Any]:
        """The duration in whole seconds, rounded up, as OpenAI bills it."""
        assert self.last is not None
        return {"type": "duration", "seconds": math.ceil(self.last.duration)}

    @property
    def tokens_used(self) -> dict[str, Any]:
        assert self.last is not None
        audio, text = self.last.num_audio_tokens, self.last.num_prompt_tokens
        return {
            "type": "tokens",
            "input_tokens": audio + text,
            "input_token_details": {"audio_tokens": audio, "text_tokens": text},
            "output_tokens": self.num_output_tokens,
            "total_tokens": audio + text + self.num_output_tokens,
        }


async def collect_transcript(outputs: TranscriptOutputs) -> Transcript:
    transcript = Transcript()
    while not outputs.ended:
        transcript.add(await outputs.next())
    return transcript


async def transcript_events(outputs: TranscriptOutputs, with_logprobs: bool) -> Frames:
    """transcript.text.delta for each part, transcript.text.done, DONE; or an error event and nothing after it."""
    transcript = Transcript()
    try:
        while not outputs.ended:
            output = await outputs.next()
            transcript.add(output)
            if output.text:
                logprobs = {"logprobs": orjson.loads(output.logprobs or b"[]")} if with_logprobs else {}
                yield event({"type": "transcript.text.delta", "delta": output.text, **logprobs})
    except GatewayError as error:
        yield error_event(error)
        return
    except Exception:  # a fault of ours after the status line: all that is left is an event
        log.exception("internal fault in a stream")
        yield error_event(InternalFault())
        return
    logprobs = {"logprobs": transcript.logprobs} if with_logprobs else {}
    done = {"type": "transcript.text.done", "text": transcript.text, **logprobs, "usage": transcript.tokens_used}
    yield event(done) + DONE


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
