"""Attention in plain steps, for the families that do more to scores than scale and mask them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Scores:
    """What a layer does to its scores; nothing, in most families.

    `softcap` c turns a score s into c tanh(s / c) (Gemma 2, arXiv 2408.00118). `sinks` [heads] are scores of a key that
    every query sees and that has no value, so that a head can attend to nothing (gpt-oss; arXiv 2309.17453).
    """

    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        is_causal: bool,
        scaling: float | None,
    ) -> torch.Tensor:
        """As the library's function of the same arguments: query [n, heads, rows, head_dim] -> the same shape.

        There may be fewer heads of keys [n, kv_heads, length, head_dim], each then for several of the query's.
        """
        groups = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
        scores = query @ keys.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if is_causal:
            scores = scores + torch.full_like(scores[0, 0], -torch.inf).triu(1)
        elif mask is not None:
            scores = scores + mask
        return self._weights(scores) @ values

    def _weights(self, scores: torch.Tensor) -> torch.Tensor:
        if self.sinks is None:
            return scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
        # One per head: in which dimensions the heads lie, the caller has arranged.
        n, heads, rows, _ = scores.shape
        sinks = self.sinks.to(scores.dtype).reshape(1, heads, -1, 1).expand(n, heads, rows, 1)
        return torch.cat([scores, sinks], -1).softmax(-1, dtype=torch.float32).to(scores.dtype)[..., :-1]
