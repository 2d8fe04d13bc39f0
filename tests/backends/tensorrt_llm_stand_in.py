"""A library with TensorRT-LLM's signatures, as tensorrt_llm_api.json records them, and a toy in place of the model.

An argument that the recorded version does not have is a TypeError, as it is there. The toy says tokens that follow from
prompt and adapter, a few hundred a second, and knows ends, stop tokens, biases, log probabilities and aborts.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from packaging.version import Version

from python_backends.tensorrt_llm_engine.library import Library

API: dict[str, Any] = json.loads((Path(__file__).parent / "tensorrt_llm_api.json").read_text())
VERSIONS = sorted(API)
_TOKEN_S = 0.002


def signature(version: str, name: str) -> Signature:
    """The recorded signature of LLM, generate_async, or one of the classes that their arguments are made of."""
    defaults = {key: Parameter.empty if value == "required" else value for key, value in API[version][name].items()}
    is_call = name in ("LLM", "generate_async", "LoRARequest")
    kind = Parameter.POSITIONAL_OR_KEYWORD if is_call else Parameter.KEYWORD_ONLY
    return Signature([Parameter(key, kind, default=default) for key, default in defaults.items()])


class Record:
    """Arguments of one call, checked and completed with the defaults, as attributes."""

    def __init__(self, known: Signature, given: Mapping[str, Any]) -> None:
        bound = known.bind(**given)
        bound.apply_defaults()
        self.__dict__.update(bound.arguments)


def maker(version: str, name: str) -> Any:
    """A callable that shows the recorded signature and holds calls to it."""
    known = signature(version, name)

    def make(**given: Any) -> Record:
        return Record(known, given)

    make.__signature__ = known  # type: ignore[attr-defined]
    make.__qualname__ = name
    return make


@dataclass
class Logprob:
    logprob: float
    rank: int


@dataclass
class Completion:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None


class Output:
    """RequestOutput: its own asynchronous iterator; lists hold everything so far."""

    cached_tokens = 0

    def __init__(self, llm: Any, call: Any) -> None:
        self._llm, self._prompt, self._sampling = llm, call.inputs["prompt_token_ids"], call.sampling_params
        self._adapter = call.lora_request and call.lora_request.lora_int_id
        self.outputs = [Completion()]
        self.finished = self.aborted = False
        self._steps = self._generate()

    def abort(self) -> None:
        self.aborted = True

    def __aiter__(self) -> AsyncIterator[Output]:
        return self._steps

    async def _generate(self) -> AsyncIterator[Output]:
        self._llm.num_running += 1
        self._llm.most_running = max(self._llm.most_running, self._llm.num_running)
        try:
            while not self.finished:
                await asyncio.sleep(_TOKEN_S)
                self._step()
                yield self
        finally:
            self._llm.num_running -= 1

    def _step(self) -> None:
        [done], sampling = self.outputs, self._sampling
        if self.aborted:
            done.finish_reason = "cancelled"
        else:
            token_id = self._draw()
            done.token_ids.append(token_id)
            done.finish_reason = self._reason(token_id)
            if sampling.logprobs is not None:
                likely = [token_id, *(other for other in range(sampling.logprobs + 1) if other != token_id)]
                ranked = enumerate(likely[: sampling.logprobs], 1)
                done.logprobs.append({each: Logprob(-math.log(rank + 1), rank) for rank, each in ranked})
        self.finished = done.finish_reason is not None

    def _draw(self) -> int:
        sampling, said = self._sampling, self.outputs[0].token_ids
        key = f"{self._adapter}{self._prompt}{said}" + ("" if sampling.top_k == 1 else f"{sampling.seed}")
        bias = [0.0] * self._llm.vocab_size if sampling.embedding_bias is None else sampling.embedding_bias
        chances = random.Random(key)
        scores = [chances.random() + float(each) for each in bias]
        return scores.index(max(scores))

    def _reason(self, token_id: int) -> str | None:
        sampling, said = self._sampling, len(self.outputs[0].token_ids)
        if token_id == sampling.end_id and not sampling.ignore_eos and said > (sampling.min_tokens or 0):
            return "stop"
        if token_id in (sampling.stop_token_ids or ()):
            return "stop"
        return "length" if said >= sampling.max_tokens else None


def stand_in(version: str = VERSIONS[-1], vocab_size: int = 96) -> Library:
    """The library in that version; what it was called with is on the class `llm`."""
    llm_signature, call_signature = signature(version, "LLM"), signature(version, "generate_async")

    class LLM:
        num_running = most_running = 0
        is_shut_down = False

        def __init__(self, **given: Any) -> None:
            self.arguments = Record(llm_signature, given)
            self.vocab_size = vocab_size
            self.calls: list[Record] = []

        def generate_async(self, **given: Any) -> Output:
            assert asyncio.get_running_loop(), "without a loop the result cannot be awaited"
            call: Any = Record(call_signature, given)
            self.calls.append(call)
            return Output(self, call)

        def shutdown(self) -> None:
            self.is_shut_down = True

    LLM.generate_async.__signature__ = call_signature  # type: ignore[attr-defined]
    names = ("SamplingParams", "KvCacheConfig", "GuidedDecodingParams", "LoraConfig", "LoRARequest")
    return Library(Version(version), LLM, *(maker(version, name) for name in names), list)
