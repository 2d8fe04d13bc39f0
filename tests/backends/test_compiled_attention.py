"""Rotation, the cache and attention of single tokens against plain torch, over cells that would show any wrong read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from python_backends.compiled.attention import attend_tokens, rotate_and_store, softmax_seen
from python_backends.compiled.numbers import COMPILED, as_array

DTYPES = sorted(COMPILED, key=str)
# What the order of sums costs, and one step of bfloat16, where a number may be rounded to the other side.
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 2**-7}
# heads, kv_heads, head_dim
SHAPES = [(2, 2, 16), (4, 1, 64), (6, 2, 80), (8, 2, 128), (3, 3, 64)]
ROWS = [1, 3, 17, 130]
EPS = 1e-6


def random(*size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).to(dtype)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-6) -> None:
    """`wanted` float32."""
    torch.testing.assert_close(found.float(), wanted, rtol=TOLERANCES[found.dtype], atol=atol)


# Rotation


class Step:
    """Arguments of `rotate_and_store` for rows of which each has a cell of its own, or none."""

    def __init__(self, rows: int, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self.num_heads, self.kv_heads, self.size = shape
        self.heads = random(rows, self.num_heads + 2 * self.kv_heads, self.size, dtype=dtype)
        # Halves of their own, though those of most models are alike.
        self.cos, self.sin = random(rows, self.size, dtype=dtype), random(rows + 1, self.size, dtype=dtype)[1:]
        self.num_slots, self.max_len = 5, rows // 5 + 2
        cells = torch.randperm(self.num_slots * self.max_len, generator=torch.Generator().manual_seed(rows))[:rows]
        self.slots, self.positions = cells // self.max_len, cells % self.max_len
        cache = (self.num_slots, self.kv_heads, self.max_len, self.size)
        self.keys, self.values = torch.full(cache, 7.0, dtype=dtype), torch.full(cache, 8.0, dtype=dtype)
        self.query = torch.full((rows, self.num_heads, self.size), torch.nan, dtype=dtype)

    def run(self, norms: torch.Tensor) -> None:
        rotate_and_store(
            as_array(self.heads),
            as_array(self.cos),
            as_array(self.sin),
            as_array(norms),
            np.float32(EPS),
            as_array(self.keys),
            as_array(self.values),
            self.slots.numpy(),
            self.positions.numpy(),
            as_array(self.query),
        )

    def turned(self, x: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        """x [rows, any, head_dim] -> float32, as Hugging Face turns it."""
        x = x.float() if norm is None else rms_norm(x.float(), (self.size,), norm.float(), EPS)
        low, high = x.chunk(2, dim=-1)
        return x * self.cos.float()[:, None] + torch.cat([-high, low], dim=-1) * self.sin.float()[:, None]

    def assert_right(self, norms: torch.Tensor) -> None:
        of_query, of_key = norms if len(norms) else (None, None)
        query, key, value = self.heads.split([self.num_heads, self.kv_heads, self.kv_heads], dim=1)
        assert_close(self.query, self.turned(query, of_query), atol=2e-6)
        stored = self.slots >= 0
        slots, positions = self.slots[stored], self.positions[stored]
        assert_close(self.keys[slots, :, positions], self.turned(key, of_key)[stored], atol=2e-6)
        assert torch.equal(self.values[slots, :, positions], value[stored])
        others = torch.ones(self.num_slots, self.max_len, dtype=torch.bool)
        others[slots, positions] = False
        for cache, before in ((self.keys, 7), (self.values, 8)):
            assert (cache.transpose(1, 2)[others] == before).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_a_step_is_turned_and_stored(rows: int, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    for norms in (torch.empty(0, 1, dtype=dtype), random(2, shape[2], dtype=dtype)):
        step = Step(rows, shape, dtype)
        step.run(norms)
        step.assert_right(norms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_a_row_that_only_pads_writes_nothing_to_the_cache(rows: int, dtype: torch.dtype) -> None:
    step, nothing = Step(rows, (8, 2, 128), dtype), torch.empty(0, 1, dtype=dtype)
    step.slots[rows // 2 :], step.positions[rows // 2 :] = -1, 0
    step.run(nothing)
    step.assert_right(nothing)


# Attention


class Tokens:
    """Arguments of `attend_tokens`: sequences of many lengths, a slot for each, and NaN where nobody may look."""

    def __init__(self, rows: int, shape: tuple[int, int, int], window: int, dtype: torch.dtype, longest: int = 70):
        heads, kv_heads, size = shape
        self.window, self.scale, self.num_threads = window, 0.3 / size**0.5, torch.get_num_threads()
        dice = torch.Generator().manual_seed(rows)
        self.slots = torch.randperm(rows + 2, generator=dice)[:rows]
        self.ends = 1 + (torch.arange(rows) * 23 + longest - 1) % longest
        self.starts = (self.ends - window).clamp(min=0) if window else torch.zeros_like(self.ends)
        self.query = 4 * random(rows, heads, size, dtype=dtype)
        self.keys, self.values = (
            random(rows + 2, kv_heads, longest + more, size, dtype=dtype)[:, :, :longest].contiguous()
            for more in (1, 2)
        )
        for slot in range(rows + 2):
            seen = torch.zeros(longest, dtype=torch.bool)
            for row in (self.slots == slot).nonzero().flatten():
                seen[self.starts[row] : self.ends[row]] = True
            self.keys[slot, :, ~seen], self.values[slot, :, ~seen] = torch.nan, torch.nan
        # One more row than there are threads, which nobody may write to.
        most = int((self.ends - self.starts).max())
        self.room = torch.full((self.num_threads + 1, heads // kv_heads * (2 * size + most)), 9.0)

    def attended(self) -> torch.Tensor:
        output = torch.full_like(self.query, torch.nan)
        attend_tokens(
            as_array(self.query),
            as_array(self.keys),
            as_array(self.values),
            self.slots.numpy(),
            (self.ends - 1).numpy(),
            self.window,
            np.float32(self.scale),
            as_array(self.room[:-1]),
            as_array(output),
        )
        return output

    def wanted(self) -> torch.Tensor:
        rows = []
        for row, slot in enumerate(self.slots):
            seen = slice(int(self.starts[row]), int(self.ends[row]))
            keys, values = (part[slot, :, seen].float() for part in (self.keys, self.values))
            query = self.query[row, :, None].float()
            rows.append(scaled_dot_product_attention(query, keys, values, scale=self.scale, enable_gqa=True)[:, 0])
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_each_token_attends_to_its_own_sequence(rows: int, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    tokens = Tokens(rows, shape, 0, dtype)
    assert_close(tokens.attended(), tokens.wanted(), atol=3e-6)
    assert (tokens.room[-1] == 9).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [1, 2, 5, 33, 70, 1000])
def test_a_window_hides_what_is_far_behind(window: int, dtype: torch.dtype) -> None:
    tokens = Tokens(17, (6, 2, 16), window, dtype)
    assert_close(tokens.attended(), tokens.wanted(), atol=3e-6)
    assert (tokens.room[-1] == 9).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_length_up_to_seventy(dtype: torch.dtype) -> None:
    tokens = Tokens(70, (3, 1, 16), 0, dtype)
    assert sorted(tokens.ends.tolist()) == list(range(1, 71))
    assert_close(tokens.attended(), tokens.wanted(), atol=3e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_that_no_exponential_holds(dtype: torch.dtype) -> None:
    tokens = Tokens(3, (2, 2, 16), 0, dtype, longest=9)
    tokens.query *= 1000
    found = tokens.attended()
    assert found.isfinite().all()
    assert_close(found, tokens.wanted(), atol=1e-3)


# Softmax


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [0, 1, 4, 30, 1000])
@pytest.mark.parametrize(("rows", "position"), [(1, 0), (3, 0), (3, 66), (17, 5), (64, 1)])
def test_softmax_of_what_each_row_sees(rows: int, position: int, window: int, dtype: torch.dtype) -> None:
    length = position + rows + 2
    scores = 5 * random(3 * rows, length, dtype=dtype)
    token, key = position + torch.arange(rows).repeat(3)[:, None], torch.arange(length)[None]
    seen = (key <= token) & (key > token - window if window else key >= 0)
    wanted = scores.float().masked_fill(~seen, -torch.inf).softmax(-1)
    # Nobody may look at what is hidden.
    scores[~seen] = torch.nan
    room = torch.full((torch.get_num_threads() + 1, length), 9.0)
    softmax_seen(as_array(scores), rows, position, window, as_array(room[:-1]))
    assert_close(scores, wanted, atol=1e-37)
    assert not scores[~seen].any() and (room[-1] == 9).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_far_apart_leave_one(dtype: torch.dtype) -> None:
    scores = torch.tensor([[-3e38, 0.0, 3e38], [-1e30, -1e30, -1e30]], dtype=dtype)
    softmax_seen(as_array(scores), 1, 2, 0, as_array(torch.empty(torch.get_num_threads(), 3)))
    assert_close(scores, torch.tensor([[0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nothing", [torch.nan, -torch.nan])
def test_a_row_without_a_number_is_none_and_spoils_no_other(nothing: float, dtype: torch.dtype) -> None:
    scores = random(4, 19, dtype=dtype)
    wanted = scores.float().softmax(-1)
    scores[1, 7] = nothing
    softmax_seen(as_array(scores), 1, 18, 0, as_array(torch.empty(torch.get_num_threads(), 19)))
    assert scores[1].isnan().all()
    assert_close(scores[[0, 2, 3]], wanted[[0, 2, 3]])
