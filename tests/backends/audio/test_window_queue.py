"""The queue's promises: equal jobs together, short jobs soon, only the guilty fail, nobody is left without a reply."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from python_backends.audio.window_queue import StepQueue
from python_backends.errors import DependencyDown, QueueFull


@dataclass
class Job:
    name: str
    steps: int = 1
    key: str = "same"
    cancelled: bool = False
    error: BaseException | None = None
    settled: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        return self.steps == 0 or self.error is not None

    def is_cancelled(self) -> bool:
        return self.cancelled

    def fail(self, error: BaseException) -> None:
        self.error = error

    def finish(self) -> None:
        assert not self.settled.is_set(), "one reply per job"
        self.settled.set()


class Runner:
    """Counts steps; holds the first step back until `gate` opens, so that a test can fill the queue meanwhile."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, jobs: Sequence[Job]) -> None:
        self.batches.append([job.name for job in jobs])
        self.started.set()
        assert self.gate.wait(10)
        if any(job.name == "bad" for job in jobs):
            raise RuntimeError("broken")
        for job in jobs:
            job.steps -= 1


def run(jobs: list[Job], max_batch: int = 4, max_waiting: int = 8) -> Runner:
    """Queue the first job alone, the others while it runs, and wait until all have settled."""
    runner = Runner()
    queue: StepQueue[Job] = StepQueue(runner, max_batch, max_waiting)
    queue.submit(jobs[0])
    assert runner.started.wait(10)
    for job in jobs[1:]:
        queue.submit(job)
    runner.gate.set()
    for job in jobs:
        assert job.settled.wait(10), job.name
    queue.close()
    return runner


def test_equal_jobs_that_wait_run_together() -> None:
    names = [Job("first"), Job("a"), Job("other", key="other"), Job("b"), Job("c")]
    assert run(names).batches == [["first"], ["a", "b", "c"], ["other"]]


def test_batches_are_bounded() -> None:
    assert run([Job(name) for name in "xabcde"], max_batch=2).batches == [["x"], ["a", "b"], ["c", "d"], ["e"]]


def test_a_long_job_lets_others_through_after_each_step() -> None:
    runner = run([Job("long", steps=3), Job("a", key="a"), Job("b", key="b")])
    assert runner.batches == [["long"], ["a"], ["b"], ["long"], ["long"]]


def test_a_failing_job_ends_alone() -> None:
    jobs = [Job("first"), Job("a"), Job("bad"), Job("b")]
    run(jobs)
    assert [type(job.error) for job in jobs] == [type(None), type(None), RuntimeError, type(None)]
    assert [job.steps for job in jobs] == [0, 0, 1, 0]


def test_cancelled_jobs_are_dropped_before_their_step() -> None:
    jobs = [Job("first"), Job("gone", cancelled=True), Job("a")]
    assert run(jobs).batches == [["first"], ["a"]]
    assert jobs[1].steps == 1


def test_a_full_queue_refuses() -> None:
    runner = Runner()
    queue: StepQueue[Job] = StepQueue(runner, max_batch=1, max_waiting=2)
    jobs = [Job("running"), Job("a"), Job("b")]
    queue.submit(jobs[0])
    assert runner.started.wait(10)
    queue.submit(jobs[1])
    queue.submit(jobs[2])
    assert repr(queue) == "<StepQueue 2/2 waiting>"
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        queue.submit(Job("too many"))
    runner.gate.set()
    assert all(job.settled.wait(10) for job in jobs)
    queue.close()


def test_closing_refuses_who_still_waits() -> None:
    runner = Runner()
    queue: StepQueue[Job] = StepQueue(runner, max_batch=1, max_waiting=2)
    running, waiting = Job("running"), Job("waiting")
    queue.submit(running)
    assert runner.started.wait(10)
    queue.submit(waiting)
    closer = threading.Thread(target=queue.close)
    closer.start()
    while not queue.closed:
        pass
    runner.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert (running.error, running.steps) == (None, 0)
    assert isinstance(waiting.error, DependencyDown)
    assert running.settled.is_set()
    assert waiting.settled.is_set()
    with pytest.raises(QueueFull):
        queue.submit(Job("late"))
