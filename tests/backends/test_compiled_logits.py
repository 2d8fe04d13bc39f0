"""Sums over a vocabulary against torch's."""

from __future__ import annotations

import pytest
import torch

from python_backends.compiled.logits import log_sums
from python_backends.compiled.numbers import COMPILED, as_array

INFINITY = float("inf")


def summed(scores: torch.Tensor) -> torch.Tensor:
    sums = torch.full((len(scores),), torch.nan)
    log_sums(as_array(scores), as_array(sums))
    return sums


@pytest.mark.parametrize("dtype", sorted(COMPILED, key=str), ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (2, 51865)])
def test_the_log_of_the_sum(size: tuple[int, int], dtype: torch.dtype) -> None:
    scores = (20 * torch.randn(size, generator=torch.Generator().manual_seed(0)) - 50).to(dtype)
    torch.testing.assert_close(summed(scores), scores.float().logsumexp(-1), rtol=1e-6, atol=1e-6)
    # Columns of a greater array, as timestamps are.
    torch.testing.assert_close(summed(scores[:, size[1] // 2 :]), scores[:, size[1] // 2 :].float().logsumexp(-1))


def test_what_may_not_be_said_counts_for_nothing() -> None:
    scores = torch.tensor([[-INFINITY, 1.0, -INFINITY, 1.0], [-INFINITY, -300.0, -INFINITY, -INFINITY]])
    torch.testing.assert_close(summed(scores), torch.tensor([1.6931472, -300.0]))
    assert not summed(torch.full((1, 40), -INFINITY)) > -INFINITY
