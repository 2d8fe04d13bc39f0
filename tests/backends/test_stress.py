"""Random requests in a cache that is far too small: all end, each says what it would have said alone."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from python_backends.engine import EngineOptions
from python_backends.torch_engine.engine import TorchEngine
from python_backends.types import FinishReason, GenerationRequest, SamplingParams, TokenEvent
from tests.backends.families import BYTES_PER_TOKEN, Family

_LIMIT_S = 1200.0


@dataclass
class Case:
    """One request, and what came of it."""

    request: GenerationRequest
    aborted: bool

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.reason: FinishReason | None = None
        self.over = threading.Event()

    def hear(self, event: TokenEvent) -> None:
        assert not self.over.is_set() and event.error is None, f"{event} for {self.request.id}"
        self.tokens += [] if event.token_id is None else [event.token_id]
        if event.finish_reason:
            self.reason = event.finish_reason
            self.over.set()


def random_case(number: int, chance: random.Random) -> Case:
    """Up to 100 tokens of prompt, half of them with a beginning that others have too."""
    beginning = random.Random(chance.randint(0, 4)).choices(range(5, 80), k=chance.choice((0, 0, 30, 60)))
    prompt = (*beginning, *chance.choices(range(5, 80), k=chance.randint(1, 40)))
    sampling = SamplingParams(
        temperature=chance.choice((0.0, 0.0, 1.0)),
        seed=number,
        max_tokens=chance.randint(1, 60),
        priority=chance.randint(-2, 2),
        ignore_eos=chance.random() < 0.5,
    )
    salt = chance.choice(("", "", "tenant"))
    return Case(GenerationRequest(number, prompt, sampling, cache_salt=salt), chance.random() < 0.2)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TorchEngine]:
    folder = str(Family("qwen2", tmp_path_factory.mktemp("qwen2")).folder)
    return lambda **options: TorchEngine(EngineOptions(folder, **{"dtype": "float32", **options}))


def submit_all(engine: TorchEngine, cases: list[Case], chance: random.Random) -> None:
    """In bursts; those that are to be aborted are, sooner or later, some before their first token."""
    late: list[Case] = []
    for case in cases:
        engine.submit(case.request, case.hear)
        if case.aborted:
            late.append(case)
        if late and chance.random() < 0.5:
            engine.cancel(late.pop(chance.randrange(len(late))).request.id)
        if chance.random() < 0.05:
            time.sleep(0.01)
    for case in late:
        engine.cancel(case.request.id)


def alone(engine: TorchEngine, request: GenerationRequest) -> list[int]:
    case = Case(request, False)
    engine.submit(request, case.hear)
    assert case.over.wait(60)
    return case.tokens


@pytest.mark.parametrize(
    ("count", "compared"), [(150, 40), pytest.param(1000, 160, marks=pytest.mark.slow)], ids=["150", "1000"]
)
def test_random_requests_in_a_small_cache(start: Callable[..., TorchEngine], count: int, compared: int) -> None:
    chance = random.Random(count)
    cases = [random_case(number, chance) for number in range(count)]
    engine = start(kv_cache_bytes=300 * BYTES_PER_TOKEN, max_num_seqs=8, max_num_batched_tokens=48, max_waiting=count)
    submit_all(engine, cases, chance)
    limit = time.monotonic() + _LIMIT_S
    for case in cases:
        assert case.over.wait(limit - time.monotonic()), f"{case.request.id} did not end: {engine!r}"
    stats = engine.stats
    engine.scheduler.pool.check_integrity()
    engine.close()
    assert (stats.num_running, stats.num_waiting, stats.num_tokens_in_use) == (0, 0, 0)
    assert stats.num_preemptions > 0, "the cache was large enough for all"
    ended = [case for case in cases if case.reason is not FinishReason.ABORT]
    assert len(ended) >= 0.7 * count and len(ended) < count
    solo = start(kv_cache_bytes=1 << 22, max_num_seqs=1, enable_prefix_caching=False)
    for case in chance.sample(ended, compared):
        assert case.tokens == alone(solo, case.request), f"request {case.request.id} in company"
    solo.close()
