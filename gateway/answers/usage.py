"""What an answer cost: token counts and times, summed over the responses of all its choices."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from gateway.tensors import ChatOutput


class Heard(NamedTuple):
    """What a speech model wrote down of a request before the chat model was asked."""

    model: str
    num_audio_tokens: int


class Usage:
    """Counts in tokens, times in seconds. A prompt is counted once for all its `num_sequences` answers.

    What the speech model read of the prompt is counted in its tokens.
    """

    def __init__(self, num_sequences: int = 1, heard: Heard | None = None) -> None:
        self.prompt = heard.num_audio_tokens if heard else 0
        self.audio_details = {"audio_tokens": heard.num_audio_tokens, "transcribed_by": heard.model} if heard else {}
        self.completion = 0
        self.cached = 0
        self.image = 0
        self.reasoning = 0
        self._num_sequences = num_sequences
        self._prompts: set[int] = set()
        self._num_ended = 0
        self._first_token_s: float | None = None
        self._total_s = 0.0

    def __repr__(self) -> str:
        return f"<Usage {self.prompt} + {self.completion} tokens, {self._num_ended} ended>"

    def add(self, output: ChatOutput, thinking: bool = False) -> None:
        """The prompt's counts come with the first response of each sequence, the completion's are deltas."""
        prompt = output.choice // self._num_sequences
        if prompt not in self._prompts:
            self._prompts.add(prompt)
            self.prompt += output.num_input_tokens
            self.cached += output.num_cached_tokens
            self.image += output.num_image_tokens
        self.completion += output.num_output_tokens
        if thinking:
            self.reasoning += output.num_output_tokens
        if output.finish_reason:
            self._num_ended += 1
            self._add_timings(orjson.loads(output.timings) if output.timings else {})

    def _add_timings(self, timings: dict[str, float]) -> None:
        if "first_token_s" in timings and "total_s" in timings:
            first = timings["first_token_s"]
            self._first_token_s = first if self._first_token_s is None else min(self._first_token_s, first)
            self._total_s = max(self._total_s, timings["total_s"])

    @property
    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {
                "cached_tokens": self.cached,
                "image_tokens": self.image,
                **self.audio_details,
            },
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
            **self._times,
        }

    @property
    def _times(self) -> dict[str, float | None]:
        """Known at the end only. The rate is that of decoding: the tokens after the first of each choice."""
        if self._first_token_s is None:
            return {}
        seconds, tokens = self._total_s - self._first_token_s, self.completion - self._num_ended
        return {
            "processing_time": round(self._total_s, 6),
            "first_token_time": round(self._first_token_s, 6),
            "tokens_per_second": round(tokens / seconds, 3) if seconds > 0 and tokens > 0 else None,
        }
