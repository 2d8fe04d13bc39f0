"""Numbers inside compiled loops against torch's: every bfloat16, rounding as torch rounds, and the exponential."""

from __future__ import annotations

import numpy as np
import torch

from python_backends.compiled.numbers import Array, as_array, bits, exp, narrow, number, order, wide
from python_backends.compiled.team import inlined

LEAST, GREATEST = -87.0, 88.0
INFINITY, NAN = float("inf"), float("nan")


# `inlined` and not `compiled`: what is kept on disk does not know when the function it calls has changed.
@inlined
def widen(numbers: Array, found: Array) -> None:
    for i in range(len(numbers)):
        found[i] = wide(numbers[i])


@inlined
def round_to(numbers: Array, found: Array) -> None:
    for i in range(len(numbers)):
        found[i] = narrow(numbers[i], found[i])


@inlined
def look_at_bits(numbers: Array, found: Array) -> None:
    for i in range(len(numbers)):
        found[i] = bits(numbers[i])


@inlined
def put_in_order(numbers: Array, places: Array, back: Array) -> None:
    for i in range(len(numbers)):
        places[i] = order(bits(numbers[i]))
        back[i] = number(order(places[i]))


@inlined
def powers(numbers: Array, found: Array) -> None:
    for i in range(len(numbers)):
        found[i] = exp(numbers[i])


def every_bfloat16() -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)


def patterns(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32)


def rounded(numbers: torch.Tensor) -> torch.Tensor:
    found = torch.empty(len(numbers), dtype=torch.bfloat16)
    round_to(as_array(numbers), as_array(found))
    return found


def exponentials(numbers: torch.Tensor) -> torch.Tensor:
    found = torch.empty_like(numbers)
    powers(as_array(numbers), as_array(found))
    return found


def test_an_array_is_the_memory_of_its_tensor() -> None:
    for dtype, kind in ((torch.float32, np.float32), (torch.bfloat16, np.uint16)):
        tensor = torch.zeros(2, 3, dtype=dtype)
        array = as_array(tensor)
        assert array.dtype == kind and array.shape == (2, 3)
        array[1, 2] = 0x3F80 if kind is np.uint16 else 1
        assert tensor.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_every_bfloat16_becomes_the_float32_that_torch_makes_of_it_and_comes_back() -> None:
    given = every_bfloat16()
    found = torch.empty(len(given))
    widen(as_array(given), as_array(found))
    numbers = ~given.isnan()
    assert torch.equal(patterns(found)[numbers], patterns(given.float())[numbers])
    assert torch.equal(found.isnan(), given.isnan())
    assert torch.equal(patterns(rounded(found)), patterns(given))


def test_float32_is_rounded_as_torch_rounds_it() -> None:
    torch.manual_seed(0)
    anything = torch.randint(-(2**31), 2**31, (200_000,)).to(torch.int32).view(torch.float32)
    between = patterns(every_bfloat16().float()) | 0x8000
    # Half way between two, and one bit to either side.
    ties = torch.cat([between - 1, between, between + 1]).view(torch.float32)
    given = torch.cat([anything, ties, torch.tensor([0.0, -0.0, INFINITY, -INFINITY, 3.4e38, 1e-45])])
    given = given[~given.isnan()]
    found = rounded(given)
    assert torch.equal(patterns(found), patterns(given.bfloat16()))
    assert found[-6:].tolist()[2:5] == [INFINITY, -INFINITY, INFINITY]


def test_what_arithmetic_gives_for_no_number_stays_none() -> None:
    nothing = torch.tensor([NAN, -NAN, INFINITY - INFINITY, 0 * INFINITY])
    assert rounded(nothing).isnan().all()
    assert rounded(torch.zeros(4) / torch.zeros(4)).isnan().all()


def test_float32_in_float32_stays_as_it_is() -> None:
    given = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for change in (widen, round_to):
        found = torch.empty_like(given)
        change(as_array(given), as_array(found))
        assert torch.equal(found, given)


def test_bits_are_those_of_float32() -> None:
    for given in (torch.randn(1000, generator=torch.Generator().manual_seed(0)), every_bfloat16()):
        found = torch.empty(len(given), dtype=torch.int32)
        look_at_bits(as_array(given), found.numpy())
        numbers = ~given.isnan()
        assert torch.equal(found[numbers], patterns(given.float())[numbers])


def test_whole_numbers_stand_in_the_order_of_the_floats() -> None:
    given = every_bfloat16()
    given = given[~given.isnan()].float().sort().values
    places, back = torch.empty(len(given), dtype=torch.int32), torch.empty_like(given)
    put_in_order(as_array(given), places.numpy(), as_array(back))
    assert torch.equal(patterns(back), patterns(given))
    # Both zeros are equal for a sort, and not here.
    others = given != 0
    assert (places[others].diff() > 0).all()
    assert places[given > 0].min() > places[~others].max() and places[given < 0].max() < places[~others].min()


def test_the_exponential_is_right_to_the_last_bits_over_its_range() -> None:
    x = torch.cat([torch.linspace(LEAST, GREATEST, 400_001), torch.linspace(-1e-3, 1e-3, 2001)])
    exact = x.double().exp()
    assert ((exponentials(x).double() - exact) / exact).abs().max() < 3e-7
    ends = torch.tensor([LEAST, GREATEST, 0.0, -0.0])
    assert ((exponentials(ends).double() - ends.double().exp()) / ends.double().exp()).abs().max() < 3e-7
    assert exponentials(ends)[2:].tolist() == [1, 1]


def test_the_exponential_is_cut_at_its_ends() -> None:
    found = exponentials(torch.tensor([LEAST, -88.0, -1e30, -INFINITY, GREATEST, 89.0, 1e30, INFINITY]))
    assert found[:4].tolist() == [found[0].item()] * 4
    assert found[4:].tolist() == [found[4].item()] * 4
    assert 0 < found[0] < 2e-38 and 1e38 < found[4] < INFINITY


def test_the_exponential_of_no_number_is_none() -> None:
    assert exponentials(torch.full((33,), NAN)).isnan().all()
