"""Turns between processes: nobody computes beside another, nobody waits twice, nobody waits for the dead."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import torch

from python_backends.turns import Turns, turns_on
from tests.source_tree import ROOT

HOLD = """
import sys, time
from itertools import pairwise
from pathlib import Path
from python_backends.turns import Turns
with Turns(Path(sys.argv[1])).turn():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_never_compute_at_once_and_who_waits_is_next(tmp_path: Path) -> None:
    turns: list[str] = []
    inside, stop = threading.Semaphore(1), threading.Event()

    def work(name: str) -> None:
        mine = Turns(tmp_path)
        while not stop.is_set():
            with mine.turn():
                assert inside.acquire(blocking=False), "another one is computing"
                turns.append(name)
                time.sleep(0.005)
                inside.release()

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    both = turns[turns.index("b") if turns[0] == "a" else turns.index("a") :]
    assert len(both) > 20
    again = sum(one == other for one, other in pairwise(both))
    assert again <= len(both) // 5, "who has just had a turn comes behind whoever waits"


def test_a_process_that_dies_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        taken = threading.Event()

        def take() -> None:
            with Turns(tmp_path).turn():
                taken.set()

        waiting = threading.Thread(target=take)
        waiting.start()
        assert not taken.wait(0.2), "it is still held"
        holder.kill()
        assert taken.wait(10)
        waiting.join()


def test_without_a_place_for_the_locks_nobody_waits(tmp_path: Path) -> None:
    first, second = Turns(tmp_path / "missing"), Turns(tmp_path / "missing")
    with first.turn(), second.turn():
        assert not (tmp_path / "missing").exists()


def test_who_computes_elsewhere_takes_no_turns() -> None:
    with turns_on(torch.device("meta")).turn(), turns_on(torch.device("meta")).turn():
        assert type(turns_on(torch.device("cpu"))) is Turns
