"""The promises of the engine: windows enter free slots, everyone has turns, only the guilty fail."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from python_backends.audio.window_engine import WindowEngine
from python_backends.audio.windows import DecodeOptions, Window, WindowText
from python_backends.errors import DependencyDown, QueueFull


@dataclass(eq=False)
class Job:
    """A recording of `windows` windows, each of which takes `steps` steps."""

    name: str
    windows: int = 1
    steps: int = 1
    at_once: int = 1
    cancelled: bool = False
    error: BaseException | None = None
    running: int = 0
    settled: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        return self.error is not None or (self.windows == 0 and self.running == 0)

    def is_cancelled(self) -> bool:
        return self.cancelled

    def window(self) -> Window | None:
        if self.name == "broken":
            raise RuntimeError("no window")
        if self.windows == 0 or self.running == self.at_once:
            return None
        self.windows -= 1
        self.running += 1
        options = DecodeOptions(task=self.name)
        return Window(np.zeros((1, 1), np.float32), self.steps, "", (), options)

    def add(self, window: Window, text: WindowText) -> None:
        self.running -= 1

    def fail(self, error: BaseException) -> None:
        self.error = error

    def finish(self) -> None:
        assert not self.settled.is_set(), "one reply per job"
        self.settled.set()


@dataclass(eq=False)
class Running:
    window: Window
    left: int


class Decoder:
    """Counts; holds the first step back until `gate` opens, so that a test can queue more meanwhile."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.gate = threading.Event()
        self.stepping = threading.Event()
        self.running: list[Running] = []
        self.started: list[list[str]] = []
        self.steps: list[list[str]] = []

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.running)

    def start(self, windows: Sequence[Window]) -> list[Running]:
        names = [window.options.task for window in windows]
        assert len(windows) <= self.num_free
        if "unstartable" in names:
            raise RuntimeError("cannot start")
        self.started.append(names)
        fresh = [Running(window, window.num_frames) for window in windows]
        self.running += fresh
        return fresh

    def step(self) -> list[tuple[Running, WindowText | Exception]]:
        self.stepping.set()
        assert self.gate.wait(10)
        self.steps.append([each.window.options.task for each in self.running])
        if "poison" in self.steps[-1]:
            raise RuntimeError("all fall")
        for each in self.running:
            each.left -= 1
        ended = [each for each in self.running if each.left == 0]
        self.running = [each for each in self.running if each.left]
        return [(each, self._text(each)) for each in ended]

    def drop(self, window: Running) -> None:
        self.running.remove(window)

    def _text(self, running: Running) -> WindowText | Exception:
        return RuntimeError("bad") if running.window.options.task == "bad" else WindowText((), "", "", True)


def run(jobs: list[Job], num_slots: int = 2) -> Decoder:
    """Queue the first job alone, the others while it runs, and wait until all have settled."""
    decoder = Decoder(num_slots)
    engine = WindowEngine(decoder, max_waiting=16)
    engine.submit(jobs[0])
    assert decoder.stepping.wait(10)
    for job in jobs[1:]:
        engine.submit(job)
    decoder.gate.set()
    for job in jobs:
        assert job.settled.wait(10), job.name
    engine.close()
    return decoder


def test_windows_enter_when_others_leave() -> None:
    decoder = run([Job("long", steps=4), Job("a", steps=1), Job("b", steps=2)])
    assert decoder.started == [["long"], ["a"], ["b"]]
    assert decoder.steps == [["long"], ["long", "a"], ["long", "b"], ["long", "b"]]


def test_recordings_take_turns() -> None:
    decoder = run([Job("long", windows=5), Job("a", windows=2), Job("b")], num_slots=1)
    order = [name for names in decoder.started for name in names]
    assert sorted(order[:4]) == ["a", "b", "long", "long"]
    assert sorted(order[4:]) == ["a", "long", "long", "long"]


def test_a_recording_uses_the_slots_that_nobody_wants() -> None:
    decoder = run([Job("first"), Job("long", windows=4, at_once=4)], num_slots=3)
    assert decoder.started[1:] == [["long"] * 3, ["long"]]


@pytest.mark.parametrize("bad", ["bad", "broken", "unstartable"])
def test_a_failing_recording_ends_alone(bad: str) -> None:
    jobs = [Job("first"), Job("a"), Job(bad), Job("b")]
    run(jobs, num_slots=4)
    assert [type(job.error) for job in jobs] == [type(None), type(None), RuntimeError, type(None)]


def test_a_step_that_fails_ends_those_in_it_and_the_engine_goes_on() -> None:
    jobs = [Job("first"), Job("a"), Job("poison"), Job("b")]
    run(jobs, num_slots=2)
    assert [job.error is None for job in jobs] == [True, False, False, True]


def test_a_cancelled_recording_frees_its_slots() -> None:
    long, other = Job("long", steps=10**6), Job("other")
    decoder = Decoder(1)
    engine: WindowEngine[Any] = WindowEngine(decoder, max_waiting=2)
    decoder.gate.set()
    engine.submit(long)
    assert decoder.stepping.wait(10)
    engine.submit(other)
    long.cancelled = True
    assert long.settled.wait(10)
    assert other.settled.wait(10)
    assert (long.error, other.error) == (None, None)
    engine.close()


def test_a_full_queue_refuses() -> None:
    decoder = Decoder(1)
    engine = WindowEngine(decoder, max_waiting=2)
    jobs = [Job("running"), Job("a")]
    for job in jobs:
        engine.submit(job)
    assert decoder.stepping.wait(10)
    assert repr(engine).startswith("<WindowEngine 2/2 recordings, 1 windows")
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        engine.submit(Job("too many"))
    decoder.gate.set()
    assert all(job.settled.wait(10) for job in jobs)
    engine.close()


def test_a_recording_whose_audio_comes_late_is_not_forgotten() -> None:
    decoder = Decoder(1)
    engine = WindowEngine(decoder, max_waiting=2)
    decoder.gate.set()
    job = Job("late", at_once=0)
    engine.submit(job)
    job.at_once = 1
    engine.notify()
    assert job.settled.wait(10)
    engine.close()


def test_closing_refuses_who_is_not_done() -> None:
    decoder = Decoder(1)
    engine = WindowEngine(decoder, max_waiting=2)
    running, waiting = Job("running"), Job("waiting")
    engine.submit(running)
    assert decoder.stepping.wait(10)
    engine.submit(waiting)
    closer = threading.Thread(target=engine.close)
    closer.start()
    while not engine.closed:
        pass
    decoder.gate.set()
    closer.join(10)
    assert not closer.is_alive()
    assert running.error is None
    assert isinstance(waiting.error, DependencyDown)
    assert running.settled.is_set() and waiting.settled.is_set()
    with pytest.raises(QueueFull):
        engine.submit(Job("late"))


def test_a_recording_may_come_while_others_are_settled() -> None:
    late = Job("late")

    @dataclass(eq=False)
    class Asking(Job):
        """Another recording is submitted at the moment when the engine looks whether this one has gone."""

        def is_cancelled(self) -> bool:
            if self.windows == 0 and not asked.is_set():
                asked.set()
                engine.submit(late)
            return False

    asked = threading.Event()
    decoder = Decoder(2)
    decoder.gate.set()
    engine = WindowEngine(decoder, 8)
    jobs = [Asking("first", steps=3), Asking("second", steps=3)]
    for job in jobs:
        engine.submit(job)
    try:
        assert all(job.settled.wait(10) for job in (*jobs, late)), engine
        assert asked.is_set()
    finally:
        engine.close()
