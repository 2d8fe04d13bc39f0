"""From logits to the next tokens of a step's sequences, all rows at once.

Most rows want the likeliest token and are done after one pass. The others go through `sampling_batch.py`. A row that
fails fails alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch

from python_backends.compiled.choice import likeliest
from python_backends.compiled.numbers import COMPILED, as_array
from python_backends.errors import BackendError, InternalFault
from python_backends.torch_engine.guided import NO_MASKS, Masks
from python_backends.torch_engine.sampling_batch import SamplingBatch
from python_backends.torch_engine.sampling_state import SamplingState
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import TokenLogprob


@dataclass(frozen=True)
class Draw:
    """The next token of a sequence; `logprob` if it was asked for."""

    token_id: int
    logprob: TokenLogprob | None = None


class Sampler:
    """Draws tokens; keeps what it must remember of each sequence until it is forgotten."""

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self._eos_token_ids = eos_token_ids
        self._states: dict[int, SamplingState] = {}

    def __repr__(self) -> str:
        return f"<Sampler of {len(self._states)} sequences>"

    def forget(self, sequence: Sequence) -> None:
        self._states.pop(sequence.id, None)

    @torch.inference_mode()
    def draw(
        self, logits: torch.Tensor, sequences: list[Sequence], masks: Masks = NO_MASKS
    ) -> list[Draw | BackendError]:
        """For each sequence a token, or what is wrong with it; logits [sequences, vocabulary] stay as they are.

        `masks` say what the grammars of guided sequences allow.
        """
        tokens: list[int | BackendError] = [
            InternalFault("the model's logits are not finite") if token is None else token
            for token in _likeliest(logits)
        ]
        rows = [
            row for row, each in enumerate(sequences) if isinstance(tokens[row], int) and not _takes_the_likeliest(each)
        ]
        if rows:
            chosen = SamplingBatch(logits, rows, [(sequences[row], self._state(sequences[row])) for row in rows])
            for row, token in zip(rows, chosen.tokens(masks), strict=True):
                tokens[row] = token
        return _with_logprobs(logits, sequences, tokens)

    def _state(self, sequence: Sequence) -> SamplingState:
        if sequence.id not in self._states:
            self._states[sequence.id] = SamplingState(sequence, self._eos_token_ids)
        return self._states[sequence.id]


def _likeliest(logits: torch.Tensor) -> list[int | None]:
    """Of each row the first of the greatest; None where that is not finite or a number is NaN."""
    if logits.device.type == "cpu" and logits.dtype in COMPILED:
        tokens = torch.empty(len(logits), dtype=torch.int64)
        likeliest(as_array(logits), as_array(tokens))
        return [None if token < 0 else token for token in tokens.tolist()]
    # NaN and infinity count as greatest, so one look at the greatest finds them.
    greatest, places = (found.tolist() for found in logits.max(-1))
    return [place if isfinite(value) else None for place, value in zip(places, greatest, strict=True)]


def _takes_the_likeliest(sequence: Sequence) -> bool:
    sampling = sequence.request.sampling
    touched = (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.logit_bias
        or sampling.bad_words_ids
        or sampling.guide
        or sequence.num_output_tokens < sampling.min_tokens
    )
    return sampling.greedy and not touched


def _with_logprobs(
    logits: torch.Tensor, sequences: list[Sequence], tokens: list[int | BackendError]
) -> list[Draw | BackendError]:
    found = [token if isinstance(token, BackendError) else Draw(token) for token in tokens]
    asked = {
        row: draw.token_id
        for row, (each, draw) in enumerate(zip(sequences, found, strict=True))
        if each.request.sampling.logprobs and isinstance(draw, Draw)
    }
    if asked:
        num_top = [sequences[row].request.sampling.top_logprobs for row in asked]
        logprobs = token_logprobs(logits[list(asked)], list(asked.values()), num_top)
        for (row, token_id), logprob in zip(asked.items(), logprobs, strict=True):
            found[row] = Draw(token_id, logprob)
    return found


def token_logprobs(logits: torch.Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprob]:
    """log p of one token per row, and of the row's `num_top` likeliest ones, under the unmodified logits."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0].tolist()
    top = logprobs.topk(min(max(num_top), logits.shape[-1]))
    likeliest = [
        tuple(zip(tokens[:size], values[:size], strict=True))
        for tokens, values, size in zip(top.indices.tolist(), top.values.tolist(), num_top, strict=True)
    ]
    return [TokenLogprob(value, pairs) for value, pairs in zip(own, likeliest, strict=True)]
