"""One sequence of a request, and how the library's outputs become events. Imports nothing of the library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from python_backends.errors import InternalFault
from python_backends.types import Emit, FinishReason, GenerationRequest, TokenEvent, TokenLogprob

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "cancelled": FinishReason.ABORT}


@dataclass(eq=False)
class Sequence:
    """`ends` are the token ids that end it; `handle` is the library's RequestOutput once it runs."""

    request: GenerationRequest
    emit: Emit
    index: int
    max_tokens: int
    order: tuple[int, float, int, int]
    arrived: float
    ends: frozenset[int]
    started: float = 0.0
    num_seen: int = 0
    is_over: bool = False
    handle: Any = None

    def events(self, output: Any) -> Iterator[TokenEvent]:
        """What is new in the library's RequestOutput, whose lists hold everything so far."""
        [completion] = output.outputs
        ids = completion.token_ids
        reason = self._reason(completion.finish_reason)
        # Not in every version before the first token.
        num_cached = getattr(output, "cached_tokens", 0) or 0
        while self.num_seen < len(ids):
            place, token_id = self.num_seen, ids[self.num_seen]
            self.num_seen += 1
            last = reason if self.num_seen == len(ids) else None
            stop = token_id if last is FinishReason.STOP and token_id in self.ends else None
            logprob = self._logprob(token_id, completion.logprobs[place]) if self.request.sampling.logprobs else None
            yield self._event(token_id, logprob, last, stop, num_cached)
            if last:
                return
        if reason:
            yield self._event(finish_reason=reason, num_cached_tokens=num_cached)

    def aborted(self) -> TokenEvent:
        return self._event(finish_reason=FinishReason.ABORT)

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt_ids) + self.num_seen

    def _event(
        self,
        token_id: int | None = None,
        logprob: TokenLogprob | None = None,
        finish_reason: FinishReason | None = None,
        stop_token_id: int | None = None,
        num_cached_tokens: int = 0,
    ) -> TokenEvent:
        queued_s = max(0.0, self.started - self.arrived)
        return TokenEvent(
            token_id, logprob, finish_reason, stop_token_id, num_cached_tokens, index=self.index, queued_s=queued_s
        )

    def _reason(self, text: str | None) -> FinishReason | None:
        if text is not None and text not in _REASONS:
            raise InternalFault(f"TensorRT-LLM ended the sequence with {text!r}")
        return _REASONS[text] if text else None

    def _logprob(self, token_id: int, found: Mapping[int, Any]) -> TokenLogprob:
        """Of {token id: Logprob(logprob, rank)}: the likeliest ones, and the drawn one wherever it ranks."""
        likeliest = sorted(found.items(), key=lambda item: -item[1].logprob)[: self.request.sampling.top_logprobs]
        return TokenLogprob(found[token_id].logprob, tuple((other, each.logprob) for other, each in likeliest))
