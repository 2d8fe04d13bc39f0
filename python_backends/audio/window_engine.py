"""One thread that decodes the windows of all recordings, a token of each at every step.

Knows queues and threads, and the promises of a job; refuses to know tensors of Triton. Recordings take turns at the
free slots, so a short one waits for a slot and never for the end of a long one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from python_backends.audio.windows import Window, WindowText
from python_backends.errors import DependencyDown, QueueFull

# How soon a cancel is seen of a job that waits for its audio.
_LOOK_AGAIN_S = 0.05


class Job(Protocol):
    """What the engine must know of a recording. All are called from the engine's thread."""

    @property
    def done(self) -> bool: ...

    def is_cancelled(self) -> bool: ...

    def window(self) -> Window | None:
        """The window to decode next; None if there is none for now. Whatever it raises ends the job."""

    def add(self, window: Window, text: WindowText) -> None: ...

    def fail(self, error: BaseException) -> None:
        """Take note that the job ended with an error; it is done then."""

    def finish(self) -> None:
        """Reply to a job that is done or cancelled."""


class Running(Protocol):
    """A window in a slot."""

    @property
    def window(self) -> Window: ...


RunningType = TypeVar("RunningType", bound=Running)


class Decoder(Protocol[RunningType]):
    """See window_decoder.py."""

    running: list[RunningType]

    @property
    def num_free(self) -> int: ...

    def start(self, windows: Sequence[Window]) -> list[RunningType]: ...

    def step(self) -> list[tuple[RunningType, WindowText | Exception]]: ...

    def drop(self, window: RunningType) -> None: ...


class WindowEngine(Generic[RunningType]):
    """Takes at most `max_waiting` recordings at a time."""

    def __init__(self, decoder: Decoder[RunningType], max_waiting: int) -> None:
        self._decoder = decoder
        self._max_waiting = max_waiting
        self._jobs: deque[Job] = deque()
        self._owner: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._news = False
        self.closed = False
        self._thread = threading.Thread(target=self._work, name="windows", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<WindowEngine {len(self._jobs)}/{self._max_waiting} recordings, {len(self._owner)} windows>"

    def submit(self, job: Job) -> None:
        """Raises QueueFull when `max_waiting` recordings are there already."""
        with self._changed:
            if len(self._jobs) >= self._max_waiting or self.closed:
                raise QueueFull(f"{len(self._jobs)} requests are waiting already")
            self._jobs.append(job)
            self._wake()

    def notify(self) -> None:
        """Say that a job may have a window now."""
        with self._changed:
            self._wake()

    def close(self) -> None:
        """End the running step and the thread; jobs that are not done are refused."""
        with self._changed:
            self.closed = True
            self._wake()
        self._thread.join()

    def _wake(self) -> None:
        self._news = True
        self._changed.notify()

    def _work(self) -> None:
        try:
            while not self.closed:
                self._fill()
                if self._owner:
                    self._step()
                self._settle()
                if not self._owner:
                    self._sleep()
        finally:
            self._end_all()

    def _end_all(self) -> None:
        """Nobody is left waiting for an engine that has stopped, for whatever reason."""
        with self._changed:
            self.closed = True
            jobs = tuple(self._jobs)
        for job in jobs:
            job.fail(DependencyDown("the server is stopping"))
            job.finish()

    def _sleep(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self.closed, _LOOK_AGAIN_S if self._jobs else None)
            self._news = False

    def _fill(self) -> None:
        """Free slots go around: each recording gets one after the other has got one."""
        windows: list[tuple[Job, Window]] = []
        without = 0
        while len(windows) < self._decoder.num_free and without < len(self._jobs):
            with self._changed:
                self._jobs.rotate(-1)
                job = self._jobs[-1]
            window = self._window_of(job)
            without = 0 if window else without + 1
            if window:
                windows.append((job, window))
        if windows:
            self._start(windows)

    def _window_of(self, job: Job) -> Window | None:
        try:
            return None if job.done or job.is_cancelled() else job.window()
        except Exception as error:  # becomes the error reply to this request
            job.fail(error)
            return None

    def _start(self, windows: list[tuple[Job, Window]]) -> None:
        """A start that fails for several windows is tried again for each alone, so that only the guilty one ends."""
        known = len(self._decoder.running)
        try:
            started = self._decoder.start([window for _, window in windows])
            for (job, _), running in zip(windows, started, strict=True):
                self._owner[id(running)] = job
        except Exception as error:  # becomes the error reply to this request
            for running in self._decoder.running[known:]:
                self._decoder.drop(running)
            if len(windows) == 1:
                windows[0][0].fail(error)
                return
            for pair in windows:
                self._start([pair])

    def _step(self) -> None:
        try:
            finished = self._decoder.step()
        except Exception as error:  # a step is one computation: it ends everybody who took part
            for running in list(self._decoder.running):
                self._owner.pop(id(running)).fail(error)
                self._decoder.drop(running)
            return
        for running, text in finished:
            job = self._owner.pop(id(running))
            try:
                if isinstance(text, Exception):
                    raise text
                job.add(running.window, text)
            except Exception as error:  # becomes the error reply to this request
                job.fail(error)

    def _settle(self) -> None:
        """Reply to jobs that have ended, and take their windows out."""
        # A recording may be submitted at any moment, and a deque that grows cannot be walked.
        with self._changed:
            jobs = tuple(self._jobs)
        ended = [job for job in jobs if job.done or job.is_cancelled()]
        for job in ended:
            for running in [each for each in self._decoder.running if self._owner.get(id(each)) is job]:
                del self._owner[id(running)]
                self._decoder.drop(running)
            job.finish()
        if ended:
            gone = {id(job) for job in ended}
            with self._changed:
                self._jobs = deque(job for job in self._jobs if id(job) not in gone)
