"""Helper threads of the OpenMP runtime go with the thread that they helped."""

from __future__ import annotations

import os

import torch

from python_backends.openmp import end_team


def test_a_team_ends_and_comes_back_when_it_is_needed() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        end_team()
        alone = num_threads()
        expected = compute()
        assert num_threads() > alone, "a sum over many numbers has helpers"
        end_team()
        assert num_threads() == alone
        assert compute() == expected
    finally:
        end_team()
        torch.set_num_threads(before)


def compute() -> float:
    return float(torch.arange(1 << 20, dtype=torch.float64).exp2().clamp(max=2).sum())


def num_threads() -> int:
    return len(os.listdir("/proc/self/task"))
