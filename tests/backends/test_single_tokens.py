"""Attention of the sequences that decode, from the extents of a step: which rows, which slots, and whose room."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from python_backends.compiled.numbers import COMPILED, as_array
from python_backends.torch_engine.rows import Rows
from python_backends.torch_engine.single_tokens import SingleTokens

DTYPES = sorted(COMPILED, key=str)
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 2**-7}
# Two chunks of prompts among sequences that decode, in slots out of order: (slot, start, end).
CHUNKS = [(4, 8, 9), (0, 0, 3), (2, 29, 30), (6, 0, 1), (1, 5, 7)]
DECODES = [(2, 30), (4, 9), (6, 1)]


class Model:
    """Random queries for a step of CHUNKS, and a cache."""

    def __init__(self, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
        dice = torch.Generator().manual_seed(size)
        self.rows = Rows(CHUNKS, min_rows=12)
        # As a slice of the projections: its rows are not neighbours in memory.
        self.query = torch.randn(12, heads + 1, size, generator=dice).to(dtype)[:, :heads]
        self.keys, self.values = torch.randn(2, 8, kv_heads, 40, size, generator=dice).to(dtype)

    def attend(self, tokens: SingleTokens, window: int | None, scaling: float | None) -> torch.Tensor:
        output = torch.full(self.query.shape, 9.0, dtype=self.query.dtype)
        stored = as_array(self.keys), as_array(self.values)
        tokens.attend(as_array(self.query), stored, window, scaling, as_array(output))
        return output

    def wanted(self, window: int | None, scaling: float | None) -> torch.Tensor:
        rows = []
        for row, (slot, end) in enumerate(DECODES):
            seen = slice(max(0, end - (window or end)), end)
            query, keys, values = self.query[row, :, None], self.keys[slot, :, seen], self.values[slot, :, seen]
            parts = (part.float() for part in (query, keys, values))
            rows.append(scaled_dot_product_attention(*parts, scale=scaling, enable_gqa=True)[:, 0])
        return torch.stack(rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 1, 7, 1000])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_rows_that_decode_attend_and_others_are_left_alone(
    scaling: float | None, window: int | None, dtype: torch.dtype
) -> None:
    model = Model(6, 2, 16, dtype)
    found = model.attend(SingleTokens(model.rows.decodes), window, scaling)
    wanted = model.wanted(window, scaling)
    torch.testing.assert_close(found[:3].float(), wanted, rtol=TOLERANCES[dtype], atol=3e-6)
    assert (found[3:] == 9).all()


def test_layers_of_different_sizes_share_one_step() -> None:
    models = [Model(2, 2, 16, torch.float32), Model(8, 1, 128, torch.float32), Model(6, 2, 64, torch.float32)]
    tokens = SingleTokens(models[0].rows.decodes)
    for model in (*models, *models):
        found = model.attend(tokens, None, None)
        torch.testing.assert_close(found[:3], model.wanted(None, None), rtol=3e-6, atol=3e-6)


def test_a_step_without_decoding_sequences_writes_nothing() -> None:
    model = Model(2, 2, 16, torch.float32)
    assert (model.attend(SingleTokens([]), None, None) == 9).all()
