"""What `python_backends.engine.Engine` promises, asked of every engine in the same words."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from python_backends.engine import Engine, EngineOptions, create_engine
from python_backends.errors import ContextOverflow, DeadlineExceeded, DependencyDown, InvalidInput, QueueFull
from python_backends.tensorrt_llm_engine.engine import TensorRTLLMEngine
from python_backends.types import FinishReason, GenerationRequest, SamplingParams, TokenEvent
from tests.backends.families import MAX_LEN, VOCAB, Family
from tests.backends.tensorrt_llm_stand_in import stand_in
from tests.backends.tiny import save_tokenizer

STOP, LENGTH, ABORT = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
ENDLESS = SamplingParams(temperature=0.0, ignore_eos=True)
ENGINES = [
    "echo",
    "torch",
    # The engine is whole, the library behind it a toy with its signatures.
    "tensorrt_llm on a stand-in",
    pytest.param(
        "tensorrt_llm",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not find_spec("tensorrt_llm"), reason="the package tensorrt_llm is not installed"),
        ],
    ),
]


class Ear:
    """Hears one request, and checks as it goes that nothing comes after the end."""

    def __init__(self, num_sequences: int = 1) -> None:
        self.events: list[TokenEvent] = []
        self.threads: set[int] = set()
        self.started, self.over = threading.Event(), threading.Event()
        self.heard_after_end = False
        self._open = set(range(num_sequences))

    def __call__(self, event: TokenEvent) -> None:
        self.heard_after_end |= event.index not in self._open
        self.events.append(event)
        self.threads.add(threading.get_ident())
        if event.error is not None:
            self._open.clear()
        elif event.finish_reason is not None:
            self._open.discard(event.index)
        self.started.set()
        if not self._open:
            self.over.set()

    def wait(self) -> Ear:
        assert self.over.wait(60), f"the request did not end: {self.events[-3:]}"
        assert not self.heard_after_end
        return self

    def tokens(self, index: int = 0) -> list[int]:
        return [event.token_id for event in self.events if event.token_id is not None and event.index == index]

    @property
    def last(self) -> TokenEvent:
        return self.events[-1]

    @property
    def ended(self) -> FinishReason | type[BaseException] | None:
        return self.last.finish_reason if self.last.error is None else type(self.last.error)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder for each engine: random weights, or just a tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    made = {"echo": str(folder)}
    weights = str(Family("qwen2", tmp_path_factory.mktemp("qwen2")).folder)
    return {**made, "torch": weights, "tensorrt_llm": weights, "tensorrt_llm on a stand-in": weights}


Start = Callable[..., Any]


@pytest.fixture(params=ENGINES)
def start(request: pytest.FixtureRequest, checkpoints: dict[str, str]) -> Start:
    """Start the engine with options; it is closed at the end of the block."""
    name: str = request.param
    options: dict[str, Any] = {"dtype": "float32", "kv_cache_bytes": 1 << 22, "max_model_len": MAX_LEN}
    if name == "echo":
        # Slow enough for a test to step in, as a model is.
        options["echo_tokens_per_second"] = 500.0

    @contextmanager
    def started(**more: Any) -> Iterator[Engine]:
        chosen = EngineOptions(checkpoints[name], **{**options, **more})
        is_toy = name.endswith("stand-in")
        engine = TensorRTLLMEngine(chosen, stand_in(vocab_size=VOCAB)) if is_toy else create_engine(name, chosen)
        try:
            yield engine
        finally:
            engine.close()

    return started


def ask(engine: Engine, number: int, sampling: SamplingParams = GREEDY, size: int = 5, **more: Any) -> Ear:
    ear, prompt = Ear(sampling.n), tuple(random.Random(number).choices(range(5, 80), k=size))
    engine.submit(GenerationRequest(number, prompt, sampling, **more), ear)
    return ear


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not come true"
        time.sleep(0.002)


def is_idle(engine: Engine) -> bool:
    stats = engine.stats
    return stats.num_running == stats.num_waiting == stats.num_tokens_in_use == 0


def test_events_come_in_order_from_one_thread_and_end_once(start: Start) -> None:
    with start() as engine:
        ears = [ask(engine, number).wait() for number in range(3)]
        together = [ask(engine, number) for number in range(3)]
        assert [ear.wait().tokens() for ear in together] == [ear.tokens() for ear in ears]
        wait_for(lambda: is_idle(engine))
    assert all(len(ear.tokens()) == 8 and ear.ended is LENGTH for ear in ears)
    assert all(event.finish_reason is None and event.error is None for ear in ears for event in ear.events[:-1])
    assert len({thread for ear in ears for thread in ear.threads}) == 1
    assert threading.get_ident() not in ears[0].threads


@pytest.mark.parametrize("max_tokens", [1, 3])
def test_max_tokens(start: Start, max_tokens: int) -> None:
    with start() as engine:
        ear = ask(engine, 1, dataclasses.replace(GREEDY, max_tokens=max_tokens)).wait()
    assert (len(ear.tokens()), ear.ended) == (max_tokens, LENGTH)


def test_a_stop_token_ends_the_sequence_and_is_named(start: Start) -> None:
    with start() as engine:
        free = ask(engine, 1).wait().tokens()
        stop = free[3]
        ear = ask(engine, 1, dataclasses.replace(GREEDY, stop_token_ids=frozenset({stop}))).wait()
    assert ear.tokens() == free[: free.index(stop) + 1]
    assert (ear.ended, ear.last.stop_token_id) == (STOP, stop)


def test_min_tokens_come_before_a_stop_token(start: Start) -> None:
    with start() as engine:
        sampling = dataclasses.replace(GREEDY, stop_token_ids=frozenset(range(VOCAB)), min_tokens=0)
        assert len(ask(engine, 1, sampling).wait().tokens()) == 1


def test_a_running_a_waiting_and_an_unknown_request_can_be_cancelled(start: Start) -> None:
    with start(max_num_seqs=1) as engine:
        running, waiting = ask(engine, 0, ENDLESS), ask(engine, 1, ENDLESS)
        assert running.started.wait(30)
        for number in (1, 0, 0, 77):
            engine.cancel(number)
        assert [ear.wait().ended for ear in (running, waiting)] == [ABORT, ABORT]
        assert len(running.tokens()) < MAX_LEN - 5 and not waiting.tokens()
        wait_for(lambda: is_idle(engine))
        assert ask(engine, 2).wait().ended is LENGTH


def test_what_can_never_fit_is_refused_at_once(start: Start) -> None:
    too_many = dataclasses.replace(GREEDY, max_tokens=MAX_LEN + 1)
    with start() as engine:
        for refused in (
            lambda: ask(engine, 0, size=MAX_LEN),
            lambda: ask(engine, 0, too_many),
        ):
            with pytest.raises(ContextOverflow):
                refused()
        for ids in ((), (-1,), (10**6,)):
            with pytest.raises(InvalidInput):
                engine.submit(GenerationRequest(0, ids, GREEDY), Ear())
        assert is_idle(engine)


def test_the_context_ends_a_sequence_that_asks_for_no_length(start: Start) -> None:
    with start(max_model_len=30, echo_tokens_per_second=0.0) as engine:
        ear = ask(engine, 0, ENDLESS, size=20).wait()
    assert (len(ear.tokens()), ear.ended) == (10, LENGTH)


def test_a_full_queue_refuses(start: Start) -> None:
    with start(max_num_seqs=1, max_waiting=1) as engine:
        first = ask(engine, 0, ENDLESS)
        assert first.started.wait(30)
        second, third = ask(engine, 1), ask(engine, 2)
        assert third.wait().ended is QueueFull
        engine.cancel(0)
        assert second.wait().ended is LENGTH
        assert first.wait().ended is ABORT


def test_close_ends_what_is_open_and_then_nothing_is_taken(start: Start) -> None:
    with start(max_num_seqs=2) as engine:
        ears = [ask(engine, number, ENDLESS) for number in range(5)]
        engine.close()
        assert {ear.wait().ended for ear in ears} <= {ABORT, LENGTH}
        assert ears[-1].ended is ABORT
        with pytest.raises(DependencyDown):
            ask(engine, 9)


def test_a_deadline_ends_what_waits_and_what_runs(start: Start) -> None:
    with start(max_num_seqs=1) as engine:
        now = time.monotonic()
        blocking = ask(engine, 0, ENDLESS)
        assert blocking.started.wait(30)
        waiting = ask(engine, 1, deadline=now - 1.0)
        assert waiting.wait().ended is DeadlineExceeded and not waiting.tokens()
        engine.cancel(0)
        running = ask(engine, 2, ENDLESS, deadline=time.monotonic() + 0.05)
        in_time = ask(engine, 3, deadline=time.monotonic() + 60)
        assert running.wait().ended in (DeadlineExceeded, LENGTH)
        assert in_time.wait().ended is LENGTH
        wait_for(lambda: is_idle(engine))


def test_the_lower_number_goes_first(start: Start) -> None:
    order: list[int] = []
    with start(max_num_seqs=1) as engine:
        blocking = ask(engine, 0, ENDLESS)
        assert blocking.started.wait(30)
        ears = []
        for number, priority in enumerate((1, 0, 2, -1, 0), start=1):
            ear = ask(engine, number, dataclasses.replace(GREEDY, priority=priority, max_tokens=2))
            ears.append(ear)
        engine.cancel(0)
        for ear in ears:
            ear.wait()
        order = sorted(range(1, 6), key=lambda number: ears[number - 1].last.queued_s)
    assert order[:1] == [4] and order[-1:] == [3]


def test_several_sequences_of_one_request_end_each(start: Start) -> None:
    with start() as engine:
        ear = ask(engine, 0, dataclasses.replace(GREEDY, n=3)).wait()
        with pytest.raises(InvalidInput):
            ask(engine, 1, dataclasses.replace(GREEDY, n=65))
        wait_for(lambda: is_idle(engine))
    assert [len(ear.tokens(index)) for index in range(3)] == [8, 8, 8]
    assert sorted(event.index for event in ear.events if event.finish_reason) == [0, 1, 2]


def test_one_sequence_can_be_cancelled_alone(start: Start) -> None:
    with start() as engine:
        ear = ask(engine, 0, dataclasses.replace(ENDLESS, n=2))
        wait_for(lambda: bool(ear.tokens(1)))
        engine.cancel(0, 1)
        wait_for(lambda: any(event.finish_reason and event.index == 1 for event in ear.events))
        engine.cancel(0)
        ear.wait()
    [end] = [event for event in ear.events if event.finish_reason and event.index == 1]
    assert end.finish_reason is ABORT


def test_submit_and_cancel_may_come_from_many_threads(start: Start) -> None:
    ears: dict[int, Ear] = {}
    with start(max_num_seqs=4, max_waiting=1000, echo_tokens_per_second=0.0) as engine:

        def client(first: int) -> None:
            chance = random.Random(first)
            for number in range(first, first + 10):
                ears[number] = ask(engine, number)
                if chance.random() < 0.4:
                    engine.cancel(chance.randint(first, number))

        threads = [threading.Thread(target=client, args=(100 * each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes = [ear.wait().ended for ear in ears.values()]
        wait_for(lambda: is_idle(engine))
    assert len(outcomes) == 40 and set(outcomes) <= {LENGTH, ABORT}


def test_the_names_of_a_missing_engine_and_of_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'engine' has the bad value 'warp'; known are torch, echo"):
        create_engine("warp", EngineOptions("."))


def test_the_echo_engine_says_the_prompt_and_needs_a_tokenizer(tmp_path: Path, checkpoints: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"needs a tokenizer\.json"):
        create_engine("echo", EngineOptions(str(tmp_path)))
    engine = create_engine("echo", EngineOptions(checkpoints["echo"]))
    ear = ask(engine, 0, SamplingParams(max_tokens=99)).wait()
    engine.close()
    assert ear.tokens() == random.Random(0).choices(range(5, 80), k=5)
    assert ear.ended is STOP
