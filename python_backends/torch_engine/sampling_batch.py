"""The rows of one step that want more than the likeliest token: gathers their parameters and applies `filters.py`.

Rules go in Hugging Face's order: penalties, bias, then all bans, which nothing undoes; then the draw's own filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ordered
from typing import Any

import numpy as np
import torch

from python_backends.errors import BackendError, InvalidInput
from python_backends.torch_engine import filters
from python_backends.torch_engine.filters import Cells, Penalties, Warps
from python_backends.torch_engine.guided import NO_MASKS, Masks
from python_backends.torch_engine.sampling_state import SamplingState
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import SamplingParams


class SamplingBatch:
    """A float32 copy of the `rows` of `logits` [sequences, vocabulary], and to whom each belongs."""

    def __init__(self, logits: torch.Tensor, rows: list[int], owners: list[tuple[Sequence, SamplingState]]) -> None:
        self._device = logits.device
        self.scores = logits[torch.tensor(rows, device=logits.device)].float()
        self._owners = owners
        self._sampling = [sequence.request.sampling for sequence, _ in owners]
        # Rows whose grammar cannot go on.
        self._broken: dict[int, BackendError] = {}

    def tokens(self, masks: Masks) -> list[int | BackendError]:
        """The next token of each row, or that the bans left none."""
        self.shape(masks)
        tokens = [self._broken.get(row, token) for row, token in enumerate(self._likeliest())]
        random = [row for row, token in enumerate(tokens) if isinstance(token, int) and not self._sampling[row].greedy]
        warped = [row for row in random if _drops_tokens(self._sampling[row])]
        # Each kind by itself: how a row is drawn must not depend on its neighbours, or a seed would not hold.
        for rows, draw in ((sorted({*random} - {*warped}), self._draw), (warped, self._draw_warped)):
            for row, token in zip(rows, draw(rows) if rows else (), strict=True):
                tokens[row] = token
        return tokens

    def shape(self, masks: Masks = NO_MASKS) -> None:
        """Bring `scores` to what greedy choice and draw see."""
        self._penalise()
        self._add_bias()
        self._ban(masks)

    def _penalise(self) -> None:
        histories = [
            (row, state.update_history(sequence))
            for row, (sequence, state) in enumerate(self._owners)
            if _is_penalised(sequence.request.sampling)
        ]
        if any(len(history) for _, history in histories):
            cells = self._cells((row, history.tokens) for row, history in histories)
            counts = np.concatenate([np.array(history.counts) for _, history in histories])
            by = Penalties(
                self._per_row(lambda each: each.repetition_penalty),
                self._per_row(lambda each: each.presence_penalty),
                self._per_row(lambda each: each.frequency_penalty),
            )
            filters.penalise(self.scores, cells, torch.from_numpy(counts).to(self._device), by)

    def _add_bias(self) -> None:
        biased = [(row, each.logit_bias) for row, each in enumerate(self._sampling) if each.logit_bias]
        if biased:
            values = [value for _, bias in biased for value in bias.values()]
            cells = self._cells((row, list(bias)) for row, bias in biased)
            filters.add_bias(self.scores, cells, torch.tensor(values, device=self._device))

    def _ban(self, masks: Masks) -> None:
        allowed = {row: found for row, (sequence, _) in enumerate(self._owners) if (found := masks.of(sequence))}
        self._broken = {row: each.error for row, each in allowed.items() if each.error}
        if allowed:
            tokens = np.stack([each.tokens for each in allowed.values()])
            filters.allow_only(self.scores, self._tensor(list(allowed)), torch.from_numpy(tokens).to(self._device))
        bans = [
            (row, state.bans(sequence, may_end=row in allowed and allowed[row].only_ends))
            for row, (sequence, state) in enumerate(self._owners)
        ]
        if any(banned for _, banned in bans):
            filters.ban(self.scores, self._cells(bans))

    def _likeliest(self) -> list[int | BackendError]:
        greatest, likeliest = (found.tolist() for found in self.scores.max(-1))
        return [
            token if value > -np.inf else InvalidInput("bans leave no token to choose", _banning_field(sampling))
            for sampling, token, value in zip(self._sampling, likeliest, greatest, strict=True)
        ]

    def _draw(self, rows: list[int]) -> list[int]:
        return list(filters.draw(self._tempered(rows), self._uniforms(rows)).tolist())

    def _draw_warped(self, rows: list[int]) -> list[int]:
        warps = Warps(
            self._tensor([self._sampling[row].top_k for row in rows]),
            self._per_row(lambda each: each.top_p, rows),
            self._per_row(lambda each: each.min_p, rows),
        )
        return list(filters.draw_warped(self._tempered(rows), warps, self._uniforms(rows)).tolist())

    def _tempered(self, rows: list[int]) -> torch.Tensor:
        return self.scores[self._tensor(rows)] / self._per_row(lambda each: each.temperature, rows)[:, None]

    def _uniforms(self, rows: list[int]) -> torch.Tensor:
        owners = [self._owners[row] for row in rows]
        drawn = [state.uniform(sequence.num_output_tokens) for sequence, state in owners]
        return torch.tensor(drawn, dtype=torch.float64, device=self._device)

    def _cells(self, columns: Iterable[tuple[int, Ordered[int]]]) -> Cells:
        """Places in the scores from pairs of a row and its columns."""
        pairs = list(columns)
        rows = np.repeat([row for row, _ in pairs], [len(found) for _, found in pairs])
        return Cells(
            self._tensor(rows), self._tensor(np.concatenate([np.array(found, np.int64) for _, found in pairs]))
        )

    def _per_row(self, value: Callable[[SamplingParams], float], rows: Iterable[int] | None = None) -> torch.Tensor:
        """[rows] float32: a parameter of each row, or of some."""
        chosen = self._sampling if rows is None else [self._sampling[row] for row in rows]
        return torch.tensor([value(each) for each in chosen], dtype=torch.float32).to(self._device)

    def _tensor(self, values: Ordered[int] | np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.int64)).to(self._device)


def _is_penalised(sampling: SamplingParams) -> bool:
    return bool(sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty)


def _drops_tokens(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _banning_field(sampling: SamplingParams) -> str:
    return "guided_decoding_guide" if sampling.guide else "bad_words"
