"""The greatest of many numbers, against torch's, and what is refused."""

from __future__ import annotations

import pytest
import torch

from python_backends.compiled.choice import likeliest
from python_backends.compiled.numbers import COMPILED, as_array

DTYPES = sorted(COMPILED, key=str)
INFINITY, NAN = float("inf"), float("nan")


def chosen(logits: torch.Tensor) -> list[int]:
    tokens = torch.full((len(logits),), -7)
    likeliest(as_array(logits), as_array(tokens))
    return tokens.tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocabulary", [1, 5, 511, 512, 513, 1537, 5000])
@pytest.mark.parametrize("rows", [1, 3, 17, 130])
def test_the_first_of_the_greatest(rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    # In bfloat16 thousands of numbers have ties of their own.
    logits = (torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(rows)) - 10).to(dtype)
    first = (logits == logits.amax(1, keepdim=True)).int().argmax(1)
    assert chosen(logits) == first.tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_give_the_first_in_a_block_and_beyond(dtype: torch.dtype) -> None:
    for places in ([0, 1], [3, 900, 1200], [511, 512], [700, 701], [1299]):
        for least, greatest in ((-5.0, -1.0), (-1.0, 0.0), (0.0, 1e-30), (1.0, 3e38), (-INFINITY, -3e38)):
            logits = torch.full((1, 1300), least, dtype=dtype)
            logits[0, places] = greatest
            assert chosen(logits) == places[:1], (places, least, greatest)
    assert chosen(torch.full((2, 1300), -2.0, dtype=dtype)) == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 511, 512, 1299])
def test_what_is_not_finite_is_refused_and_spoils_no_other_row(place: int, dtype: torch.dtype) -> None:
    logits = torch.randn(6, 1300, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted = logits.argmax(1).tolist()
    logits[1, place], logits[3, place], logits[4, place] = NAN, INFINITY, -NAN
    assert [chosen(logits)[row] for row in (1, 3, 4)] == [-1, -1, -1]
    assert [chosen(logits)[row] for row in (0, 2, 5)] == [wanted[row] for row in (0, 2, 5)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minus_infinity_is_never_chosen(dtype: torch.dtype) -> None:
    logits = torch.full((3, 1300), -INFINITY, dtype=dtype)
    logits[1, 1000] = -3e38
    logits[2, 1000] = NAN
    assert chosen(logits) == [-1, 1000, -1]
    assert chosen(torch.full((1, 1), -INFINITY, dtype=dtype)) == [-1]


def test_nothing_to_choose_from_is_no_work() -> None:
    assert chosen(torch.zeros(0, 8)) == []
