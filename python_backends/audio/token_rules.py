"""Which token may come next in a Whisper window: suppressed tokens, and the grammar of timestamps.

Knows torch and the ids of a generation_config. The rules are those of transformers' SuppressTokensLogitsProcessor,
SuppressTokensAtBeginLogitsProcessor and WhisperTimeStampLogitsProcessor, for rows of different progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from python_backends.compiled.logits import log_sums
from python_backends.compiled.numbers import COMPILED, as_array

_NEVER = -torch.inf


def log_sum(scores: torch.Tensor) -> torch.Tensor:
    """Of scores [rows, n] float32 the log of the sum of e^score: [rows]."""
    if scores.is_cuda or scores.dtype not in COMPILED:
        return scores.logsumexp(-1)
    sums = scores.new_empty(len(scores))
    log_sums(as_array(scores), as_array(sums))
    return sums


class TokenRules:
    """The rules of one checkpoint; `config` is its generation_config."""

    def __init__(self, config: Any) -> None:
        self._eos: int = config.eos_token_id
        self._suppressed: list[int] = list(config.suppress_tokens or [])
        self._suppressed_first: list[int] = list(config.begin_suppress_tokens or [])
        no_timestamps = getattr(config, "no_timestamps_token_id", None)
        self._timestamps: int = -1 if no_timestamps is None else no_timestamps + 1
        self._max_initial: int | None = getattr(config, "max_initial_timestamp_index", None)

    def apply(self, scores: torch.Tensor, texts: Sequence[Sequence[int]], with_timestamps: Sequence[bool]) -> None:
        """Set what may not be said to -inf, in place: scores [rows, vocabulary], and the tokens said in each row."""
        scores[:, self._suppressed] = _NEVER
        for row, tokens, timed in zip(scores, texts, with_timestamps, strict=True):
            if not tokens:
                row[self._suppressed_first] = _NEVER
            if timed:
                self._keep_grammar(row, tokens)
        rows = [number for number, timed in enumerate(with_timestamps) if timed]
        if rows:
            self._prefer_timestamps(scores, torch.tensor(rows, device=scores.device))

    def _keep_grammar(self, row: torch.Tensor, tokens: Sequence[int]) -> None:
        """Timestamps come in pairs that never go back; a window begins with one."""
        begin = self._timestamps
        row[begin - 1] = _NEVER
        if not tokens:
            row[:begin] = _NEVER
            if self._max_initial is not None:
                row[begin + self._max_initial + 1 :] = _NEVER
            return
        last_is_time = tokens[-1] >= begin
        pair_is_open = last_is_time and not (len(tokens) < 2 or tokens[-2] >= begin)
        if pair_is_open:
            row[: self._eos] = _NEVER
        elif last_is_time:
            row[begin:] = _NEVER
        latest = next((token for token in reversed(tokens) if token >= begin), begin - 1)
        # A time may be said twice in a row, at the seam of two segments, and not again after that.
        row[begin : latest if pair_is_open else latest + 1] = _NEVER

    def _prefer_timestamps(self, scores: torch.Tensor, rows: torch.Tensor) -> None:
        """Where all timestamps together are likelier than any one other token, it is one of them."""
        begin = self._timestamps
        # Of log-probabilities and of scores the answer is the same: they differ by a constant of the row.
        chances = scores if len(rows) == len(scores) else scores[rows]
        likelier = log_sum(chances[:, begin:]) > chances[:, :begin].amax(-1)
        chosen = rows[likelier]
        scores[chosen, :begin] = _NEVER
