"""A recording in the engine and the replies to its request: segments as they are found, or all of them at the end.

Knows the output tensors of `whisper`; refuses to know torch and queues.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from python_backends.audio.segments import SECONDS_PER_TIMESTAMP
from python_backends.audio.transcription import Spoken, Transcription
from python_backends.audio.whisper_request import WhisperRequest
from python_backends.audio.windows import Window, WindowText
from python_backends.llm.detokenizer import token_bytes
from python_backends.triton_io import Array, Responder, text_array

if TYPE_CHECKING:
    from python_backends.audio.whisper_model import WhisperModel

# Asking Triton is a message between processes, and a step of a small model takes less time than that.
_CANCEL_AGE_S = 0.02


class WhisperJob:
    """See window_engine.Job; `close` gives back what the transcription holds."""

    def __init__(
        self,
        transcription: Transcription,
        request: WhisperRequest,
        responder: Responder,
        model: WhisperModel,
        close: Callable[[], None],
    ) -> None:
        self._transcription = transcription
        self._request = request
        self._responder = responder
        self._model = model
        self._close = close
        self._error: BaseException | None = None
        self._cancelled = False
        self._asked_at = 0.0
        self._unsent: list[Spoken] = []
        self._num_segments = 0
        self._has_text = False

    def __repr__(self) -> str:
        return f"<WhisperJob {self._num_segments} segments sent, {self._transcription!r}>"

    @property
    def done(self) -> bool:
        return self._error is not None or self._transcription.done

    def is_cancelled(self) -> bool:
        now = time.monotonic()
        if not self._cancelled and now - self._asked_at > _CANCEL_AGE_S:
            self._asked_at = now
            self._cancelled = self._responder.is_cancelled()
        return self._cancelled

    def window(self) -> Window | None:
        return self._transcription.window()

    def add(self, window: Window, text: WindowText) -> None:
        self._transcription.add(window, text)
        self._unsent += self._transcription.read()
        if self._request.stream and self._unsent and not self._transcription.done:
            self._responder.send(self._outputs(finish_reason=""))

    def fail(self, error: BaseException) -> None:
        self._error = error

    def finish(self) -> None:
        self._close()
        if self._error is not None:
            self._responder.fail(self._error)
        elif self._transcription.done:
            self._responder.send(self._outputs("length" if self._transcription.truncated else "stop"), final=True)
        else:
            self._responder.close()

    def _outputs(self, finish_reason: str) -> dict[str, Array]:
        """Of the segments that were not sent yet; counts of input tokens come with the last."""
        spoken, self._unsent = self._unsent, []
        found = self._transcription
        text = "".join(self._model.text(each.segment.tokens) for each in spoken)
        # The first word of a recording stands at the beginning of a line; every later one brings its space along.
        text = text if self._has_text else text.lstrip()
        self._has_text |= bool(text)
        language = found.language or "<|en|>"
        num_audio_tokens = -(-found.duration // SECONDS_PER_TIMESTAMP)
        return {
            "text": text_array(text if self._request.stream else text.rstrip()),
            "audio_language": text_array(language.strip("<|>")),
            "audio_language_name": text_array(self._model.language_name(language)),
            "segments": text_array(json.dumps([self._segment(each) for each in spoken])),
            "logprobs": text_array(self._logprobs(spoken) if self._request.return_log_probs else ""),
            "duration": np.array([found.duration], np.float32),
            "num_output_tokens": np.array([sum(len(each.segment.tokens) for each in spoken)], np.int32),
            "num_prompt_tokens": np.array([found.num_prompt_tokens], np.int32),
            "num_audio_tokens": np.array([num_audio_tokens], np.int32),
            "finish_reason": text_array(finish_reason),
        }

    def _segment(self, spoken: Spoken) -> dict[str, Any]:
        window, segment = spoken.window, spoken.segment
        self._num_segments += 1
        body: dict[str, Any] = {
            "id": self._num_segments - 1,
            "seek": spoken.seek,
            "start": round(segment.start, 2),
            "end": round(segment.end, 2),
            "text": self._model.text(segment.tokens),
            "tokens": list(segment.tokens),
            "temperature": round(window.temperature, 2),
            "avg_logprob": round(window.avg_logprob, 4),
            "compression_ratio": round(window.compression_ratio, 4),
            "no_speech_prob": round(window.no_speech_prob, 4),
        }
        if self._request.options.word_timestamps:
            body["words"] = [
                {"word": word.text.strip(), "start": round(word.start, 2), "end": round(word.end, 2)}
                for word in spoken.words
            ]
        return body

    def _logprobs(self, spoken: list[Spoken]) -> str:
        """JSON list of the text tokens: token, logprob, bytes."""
        pairs = [
            (token, logprob)
            for each in spoken
            for token, logprob in zip(each.segment.tokens, each.logprobs, strict=True)
            if token < self._model.eos
        ]
        return json.dumps([self._logprob(token, logprob) for token, logprob in pairs])

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(self._model.tokenizer.backend_tokenizer, token)
        return {"token": data.decode("utf-8", "replace"), "logprob": round(logprob, 6), "bytes": list(data)}
