"""One thread that works through jobs of several steps, taking steps with equal keys together.

Knows queues and threads; refuses to know what a step does. A long job goes back to the end of the queue after each
step, so short jobs wait for one step at most; a step that fails ends only the job that caused it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from python_backends.errors import DependencyDown, QueueFull


class Job(Protocol):
    """What the queue must know of its jobs. All are called from the queue's thread."""

    @property
    def key(self) -> Hashable:
        """Steps of jobs with equal keys can be run together."""

    @property
    def done(self) -> bool: ...

    def is_cancelled(self) -> bool: ...

    def fail(self, error: BaseException) -> None:
        """Take note that the job ended with an error; it is done then."""

    def finish(self) -> None:
        """Reply to a job that is done or cancelled."""


JobType = TypeVar("JobType", bound=Job)


class StepQueue(Generic[JobType]):
    """Runs `run_step(jobs)`, which brings each of its jobs one step further, for at most `max_batch` jobs at a time."""

    def __init__(self, run_step: Callable[[Sequence[JobType]], None], max_batch: int, max_waiting: int) -> None:
        self._run_step = run_step
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._jobs: deque[JobType] = deque()
        self._changed = threading.Condition()
        self.closed = False
        self._thread = threading.Thread(target=self._work, name="steps", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<StepQueue {len(self._jobs)}/{self._max_waiting} waiting>"

    def submit(self, job: JobType) -> None:
        """Raises QueueFull when `max_waiting` jobs wait already."""
        with self._changed:
            if len(self._jobs) >= self._max_waiting or self.closed:
                raise QueueFull(f"{len(self._jobs)} requests are waiting already")
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """End the running step and the thread; jobs that still wait are refused."""
        with self._changed:
            self.closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            self._step([job for job in batch if not job.is_cancelled()])
            unfinished = [job for job in batch if not _settled(job)]
            with self._changed:
                self._jobs.extend(unfinished)
        for job in self._jobs:
            job.fail(DependencyDown("the server is stopping"))
            job.finish()

    def _take(self) -> list[JobType]:
        """The oldest job and others that go with it; empty when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self.closed)
            if self.closed:
                return []
            key = self._jobs[0].key
            batch = [job for job in self._jobs if job.key == key][: self._max_batch]
            taken = {id(job) for job in batch}
            self._jobs = deque(job for job in self._jobs if id(job) not in taken)
            return batch

    def _step(self, batch: list[JobType]) -> None:
        """A step that fails for several jobs is tried again for each alone, so that only the guilty one ends."""
        try:
            if batch:
                self._run_step(batch)
        except Exception as error:  # becomes the error reply to this request
            if len(batch) == 1:
                batch[0].fail(error)
                return
            for job in batch:
                self._step([job])


def _settled(job: Job) -> bool:
    """Reply to a job that has ended; True if it has."""
    if job.done or job.is_cancelled():
        job.finish()
        return True
    return False
