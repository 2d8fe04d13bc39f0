"""What sampling parameters do to logits, for many rows at once. Knows tensors only: no sequence, no request.

`scores` is always [rows, vocabulary] float32. Rules about single tokens come as `Cells`, so they cost what they touch
and not a pass over the vocabulary; they change `scores` in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Enough of the likeliest tokens for nearly every row. Sorting a vocabulary of 152,000 took 16 times as long as this.
_WIDTH = 1024


@dataclass(frozen=True)
class Cells:
    """Places in `scores`, each once: `rows` and `columns`, both [cells] int64."""

    rows: torch.Tensor
    columns: torch.Tensor


@dataclass(frozen=True)
class Penalties:
    """One value per row, [rows] float32; 1, 0, 0 change nothing."""

    repetition: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor


@dataclass(frozen=True)
class Warps:
    """One value per row: top_k [rows] int64 (below 1: all), top_p and min_p [rows] float32 (1 and 0: all)."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    def of(self, rows: torch.Tensor) -> Warps:
        return Warps(self.top_k[rows], self.top_p[rows], self.min_p[rows])


def penalise(scores: torch.Tensor, seen: Cells, counts: torch.Tensor, by: Penalties) -> None:
    """`seen` are the tokens of prompt and output, `counts` [cells] float32 how often each is in the output.

    Repetition is Hugging Face's RepetitionPenaltyLogitsProcessor: negative logits are multiplied, others divided. Then
    OpenAI's rule: logit - count * frequency - (count > 0) * presence.
    """
    values = scores[seen.rows, seen.columns]
    repetition = by.repetition[seen.rows]
    values = torch.where(values < 0, values * repetition, values / repetition)
    values -= counts * by.frequency[seen.rows] + (counts > 0) * by.presence[seen.rows]
    scores[seen.rows, seen.columns] = values


def add_bias(scores: torch.Tensor, cells: Cells, bias: torch.Tensor) -> None:
    scores[cells.rows, cells.columns] += bias


def ban(scores: torch.Tensor, cells: Cells) -> None:
    scores[cells.rows, cells.columns] = -torch.inf


def allow_only(scores: torch.Tensor, rows: torch.Tensor, allowed: torch.Tensor) -> None:
    """In `rows` only what `allowed` [rows, vocabulary] bool says may come next."""
    scores[rows] = scores[rows].masked_fill(~allowed, -torch.inf)


def draw(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Tokens [rows] drawn from the softmax of `scores`; `uniforms` [rows] are in [0, 1), one per row."""
    return _pick(scores.softmax(-1), uniforms)


def draw_warped(scores: torch.Tensor, warps: Warps, uniforms: torch.Tensor, width: int = _WIDTH) -> torch.Tensor:
    """As `draw`, after top_k, top_p and min_p, in Hugging Face's order and with its meaning.

    Looks at the `width` likeliest tokens of each row. If the last of them was dropped all behind it would be too, for
    every rule drops what is less likely first; rows where it was not are drawn again from the whole vocabulary.
    """
    width = min(width, scores.shape[-1])
    values, tokens = scores.topk(width)
    kept, probabilities = _keep(scores, values, tokens, warps)
    drawn = tokens.gather(1, _pick(probabilities * kept, uniforms)[:, None])[:, 0]
    more = kept[:, -1].nonzero()[:, 0]
    if width < scores.shape[-1] and len(more):
        drawn[more] = draw_warped(scores[more], warps.of(more), uniforms[more], scores.shape[-1])
    return drawn


def _keep(
    scores: torch.Tensor, values: torch.Tensor, tokens: torch.Tensor, warps: Warps
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the likeliest tokens stay, and their probabilities after top_k; `values` fall, both [rows, width]."""
    width = values.shape[-1]
    limited = (warps.top_k >= 1) & (warps.top_k <= width)
    last = values.gather(1, (warps.top_k - 1).clamp(0, width - 1)[:, None])
    # Tokens as likely as the k-th stay too, as in Hugging Face's.
    kept = (values > -torch.inf) & ((values >= last) | ~limited[:, None])
    among_kept = values.masked_fill(~kept, -torch.inf).softmax(-1)
    probabilities = torch.where(limited[:, None], among_kept, scores.softmax(-1).gather(1, tokens))
    before = probabilities.cumsum(-1) - probabilities
    kept &= (before < warps.top_p[:, None]) | (warps.top_p >= 1)[:, None]
    kept &= probabilities >= warps.min_p[:, None] * probabilities[:, :1]
    # The likeliest stays whatever the rounding says.
    kept[:, 0] = True
    return kept, probabilities


def _pick(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Index [rows] of the first cumulated weight above uniform * total: a weight of zero is never picked."""
    cumulated = weights.cumsum(-1)
    total = cumulated[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum((uniforms * total).float(), below)
    picked = torch.searchsorted(cumulated, target[:, None], right=True)[:, 0]
    # A GPU adds in a tree, so that sums can rise by rounding where the weight is zero.
    weightless = weights.gather(1, picked[:, None])[:, 0] == 0
    if weightless.any():
        picked[weightless] = weights[weightless].argmax(-1)
    return picked
