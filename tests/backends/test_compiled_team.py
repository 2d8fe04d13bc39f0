"""Torch's threads run one compiled function together; what is compiled once is read from disk afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from python_backends.compiled.numbers import Array
from python_backends.compiled.team import HAS_TEAM, inlined, run_team, share
from python_backends.openmp import end_team

ROOT = Path(__file__).resolve().parent.parent.parent

# One function that runs on all threads and calls the OpenMP runtime, whose address differs from process to process.
PROGRAM = """
import json
import torch
from python_backends.compiled.choice import likeliest
from python_backends.compiled.numbers import as_array

tokens = torch.zeros(5, dtype=torch.int64)
likeliest(as_array(torch.eye(5, 700)), as_array(tokens))
hits, misses = (sum(found.values()) for found in (likeliest.stats.cache_hits, likeliest.stats.cache_misses))
print(json.dumps([tokens.tolist(), hits, misses, likeliest.stats.cache_path]))
"""


# `inlined` and not `compiled`: what is kept on disk does not know when team.py has changed.
@inlined
def record(thread: int, num_threads: int, calls: Array, told: Array) -> None:
    calls[thread] += 1
    told[thread] = num_threads


@inlined
def record_all(calls: Array, told: Array) -> None:
    run_team(record, (calls, told))


def recorded() -> tuple[list[int], list[int]]:
    """How often each thread was called, and how many threads it was told of."""
    calls, told = np.zeros(64, np.int64), np.zeros(64, np.int64)
    record_all(calls, told)
    last = int(calls.nonzero()[0].max()) + 1
    return calls[:last].tolist(), told[:last].tolist()


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    end_team()
    torch.set_num_threads(before)


def test_torch_has_a_team_here() -> None:
    assert HAS_TEAM


@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
def test_each_thread_is_called_once_and_knows_how_many_there_are(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    for _ in range(20):
        assert recorded() == ([1] * num_threads, [num_threads] * num_threads)


def test_another_thread_than_the_main_one_has_a_team_of_its_own() -> None:
    torch.set_num_threads(3)

    def work() -> tuple[list[int], list[int]]:
        # Torch tells the runtime of a thread's number of helpers when it first computes there, or is asked for it.
        assert torch.get_num_threads() == 3
        found = recorded()
        end_team()
        return found

    with ThreadPoolExecutor(2) as pool:
        for found in [pool.submit(work) for _ in range(8)]:
            assert found.result(timeout=60) == ([1, 1, 1], [3, 3, 3])
    assert recorded() == ([1, 1, 1], [3, 3, 3])


@pytest.mark.parametrize("total", [0, 1, 7, 64, 151_936])
@pytest.mark.parametrize("num_threads", [1, 2, 3, 16])
def test_shares_are_all_there_is_and_nothing_twice(num_threads: int, total: int) -> None:
    shares = [share(thread, num_threads, total) for thread in range(num_threads)]
    assert [place for first, last in shares for place in range(first, last)] == list(range(total))
    sizes = [last - first for first, last in shares]
    assert max(sizes) - min(sizes) <= 1


def in_a_new_process(folder: Path, **variables: str) -> tuple[list[int], int, int, str | None]:
    """What PROGRAM says with the package in `folder`: tokens, hits and misses of the cache, and where that is."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        # The package in that folder and no other one.
        env={**os.environ, "PYTHONPATH": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    tokens, hits, misses, path = json.loads(ran.stdout)
    return tokens, hits, misses, path


def test_a_second_process_compiles_only_what_has_changed(tmp_path: Path) -> None:
    package, kept = tmp_path / "python_backends", tmp_path / "kept"
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "python_backends" / "compiled", package / "compiled", ignore=without)
    for name in ("__init__.py", "openmp.py"):
        shutil.copy(ROOT / "python_backends" / name, package)
    tokens, *found, folder = in_a_new_process(tmp_path, NUMBA_CACHE_DIR=str(kept))
    assert (tokens, found) == ([0, 1, 2, 3, 4], [0, 1]), "hits and misses"
    assert folder and Path(folder).is_relative_to(kept)
    tokens, *found, _ = in_a_new_process(tmp_path, NUMBA_CACHE_DIR=str(kept))
    assert (tokens, found) == ([0, 1, 2, 3, 4], [1, 0])
    # Not the file of the function, but one of a function that it calls.
    with (package / "compiled" / "numbers.py").open("a") as source:
        source.write("# changed\n")
    tokens, *found, _ = in_a_new_process(tmp_path, NUMBA_CACHE_DIR=str(kept))
    assert (tokens, found) == ([0, 1, 2, 3, 4], [0, 1])


def test_where_nothing_can_be_kept_each_process_compiles() -> None:
    # None of the places that this one knows is there: as with folders that cannot be written to, also for root.
    tokens, hits, _, folder = in_a_new_process(ROOT, NUMBA_CACHE_LOCATOR_CLASSES="IPythonCacheLocator")
    assert (tokens, hits, folder) == ([0, 1, 2, 3, 4], 0, None)
