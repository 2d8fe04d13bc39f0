"""How much of a prompt is read beside running streams, on machines that are made up."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from python_backends.torch_engine.pacing import Pacing
from python_backends.torch_engine.scheduler import Scheduler, Step
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import SlotPool
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent


@dataclass
class Machine:
    """Step costs in seconds; a prompt token gets dearer along a long prompt, and now and then a step stalls."""

    decode_s: float = 0.04
    token_s: float = 0.001
    noise: float = 0.1
    stalls: float = 0.0

    def __post_init__(self) -> None:
        self._chance = random.Random(1)
        self.now = 0.0

    def run(self, step: Step) -> float:
        position = max((chunk.end for chunk in step.chunks), default=0)
        seconds = self.decode_s + step.num_prompt_tokens * self.token_s * (1 + position / 4000)
        seconds *= 1 + self.noise * self._chance.random()
        seconds *= 10 if self._chance.random() < self.stalls else 1
        self.now += seconds
        return seconds


class Load:
    """A scheduler on a machine."""

    def __init__(self, machine: Machine, budget: int = 1024) -> None:
        self.machine = machine
        self.scheduler = Scheduler(SlotPool(64, 10**6), budget, 1000)
        self.first_token: dict[int, float] = {}

    def add(self, number: int, size: int, max_tokens: int) -> None:
        request = GenerationRequest(number, tuple([number] * size), SamplingParams())
        self.scheduler.add(Sequence(request, ignore, request.prompt_ids, max_tokens, arrived=self.machine.now))

    def step(self) -> float:
        step = self.scheduler.schedule(self.machine.now)
        assert step.chunks
        seconds = self.machine.run(step)
        self.scheduler.observe(step, seconds)
        for chunk, samples in [(chunk, chunk.samples) for chunk in step.chunks]:
            self.scheduler.commit(chunk)
            if samples:
                self._append(chunk.sequence)
        return seconds

    def _append(self, sequence: Sequence) -> None:
        sequence.tokens.append(0)
        self.first_token.setdefault(sequence.id, self.machine.now)
        if sequence.num_output_tokens == sequence.max_tokens:
            self.scheduler.finish(sequence)


def ignore(event: TokenEvent) -> None:
    """Nobody listens."""


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[percent * (len(values) - 1) // 100]


@pytest.mark.parametrize("stalls", [0.0, 0.03])
@pytest.mark.parametrize("token_s", [0.005, 0.001, 0.00004])
def test_streams_keep_their_pace_while_a_long_prompt_is_read(token_s: float, stalls: float) -> None:
    load = Load(Machine(token_s=token_s, stalls=stalls), budget=4096)
    for number in range(8):
        load.add(number, 20, 100_000)
    before = [load.step() for _ in range(120)][20:]
    load.add(8, 4000, 1)
    during = []
    while 8 not in load.first_token:
        during.append(load.step())
    pure = percentile(before, 50)
    assert percentile(during, 90 if stalls else 95) <= 2.0 * pure * 1.1
    if not stalls:
        assert max(during) <= 5 * pure
    assert sum(during) <= 3.5 * 4000 * token_s * 1.6 + 40 * pure


def test_prompts_get_more_of_the_step_the_more_of_them_wait() -> None:
    pacing = Pacing()
    pacing.observe(8, 0, 0.1)
    pacing.observe(0, 1000, 1.0)
    assert [pacing.prompt_tokens(8, waiting, 9999, 9999) for waiting in (1, 2, 3, 99)] == [75, 400, 600, 800]
    assert repr(pacing) == "<Pacing decode step {8: 0.1} s, prompt token 0.001 s>"


def test_what_is_left_of_the_prompts_is_read_in_a_few_long_steps() -> None:
    pacing = Pacing()
    pacing.observe(8, 0, 0.1)
    pacing.observe(0, 1000, 1.0)
    assert [pacing.prompt_tokens(8, 1, unread, 4000) for unread in (2000, 1200, 1000, 20)] == [75, 75, 300, 300]


def test_a_short_prompt_is_read_in_long_steps() -> None:
    pacing = Pacing()
    pacing.observe(8, 0, 0.1)
    pacing.observe(0, 1000, 1.0)
    assert [pacing.prompt_tokens(8, 1, unread, 1024) for unread in (1024, 20)] == [350, 350]
    # Where a token is dear, a short prompt is a long one.
    dear = Pacing()
    dear.observe(8, 0, 0.1)
    dear.observe(0, 1000, 5.0)
    assert [dear.prompt_tokens(8, 1, unread, 1024) for unread in (1024, 800)] == [15, 70]


def test_what_a_step_costs_for_having_any_prompt_in_it_does_not_make_its_tokens_dear() -> None:
    pacing = Pacing()
    pacing.observe(8, 0, 0.1)
    pacing.observe(0, 1000, 1.0)
    tokens = [pacing.prompt_tokens(8, 1, 9999, 9999)]
    for _ in range(12):
        pacing.observe(8, tokens[-1], 0.1 + 0.06 + 0.001 * tokens[-1])
        tokens.append(pacing.prompt_tokens(8, 1, 9999, 9999))
    assert tokens[0] == 75 and set(tokens[1:]) == {50}, "a token costs at most half as much again as one alone"


def test_alone_a_prompt_is_read_in_steps_of_less_than_a_second() -> None:
    pacing = Pacing()
    assert pacing.prompt_tokens(0, 1, 9999, 9999) == 128
    pacing.observe(0, 100, 0.1)
    assert pacing.prompt_tokens(0, 1, 9999, 9999) == 750
    pacing.observe(0, 100, 90.0)
    pacing.observe(0, 100, 0.1)
    assert pacing.prompt_tokens(0, 1, 9999, 9999) == 750


def test_the_cost_of_a_decode_step_is_measured_again_while_prompts_keep_coming() -> None:
    pacing = Pacing()
    pacing.observe(4, 0, 0.1)
    given = []
    for _ in range(40):
        tokens = pacing.prompt_tokens(4, 1, 9999, 9999)
        given.append(tokens)
        pacing.observe(4, tokens, 0.1 + tokens * 0.001)
    assert [place for place, tokens in enumerate(given) if tokens == 0] == [16, 33]


def test_of_many_prompts_the_median_is_served_in_half_the_time() -> None:
    load = Load(Machine(noise=0.0))
    for number in range(9):
        load.add(number, 1000, 1)
    while load.scheduler.has_work:
        load.step()
    times = [load.first_token[number] for number in range(9)]
    assert times == sorted(times)
    assert times[4] <= 0.6 * times[8]


def test_steps_that_return_early_are_counted_with_the_next() -> None:
    load = Load(Machine())
    load.add(0, 2048, 1)
    first = load.scheduler.schedule()
    load.scheduler.observe(first, 0.0, is_done=False)
    assert repr(load.scheduler.pacing).endswith("prompt token None s>")
    load.scheduler.observe(first, 2.56)
    assert repr(load.scheduler.pacing).endswith("prompt token 0.01 s>")


def test_a_short_prompt_overtakes_a_long_one_by_no_more_than_that_one_takes() -> None:
    scheduler = Scheduler(SlotPool(1, 10**6), 4096, 100)

    def add(number: int, size: int, arrived: float) -> None:
        request = GenerationRequest(number, tuple([number] * size), SamplingParams())
        scheduler.add(Sequence(request, ignore, request.prompt_ids, 1, arrived=arrived))

    add(1, 1000, 0.0)
    add(2, 10, 0.5)
    assert [each.id for each in scheduler.sequences] == [1, 2], "what reading costs is not known yet"
    scheduler.pacing.observe(0, 1000, 1.0)
    add(3, 1000, 2.0)
    add(4, 10, 2.9)
    add(5, 10, 3.1)
    assert [each.id for each in scheduler.sequences] == [1, 2, 4, 3, 5]


def test_what_the_cache_remembers_need_not_be_read() -> None:
    scheduler = Scheduler(SlotPool(2, 10**6), 4096, 100)
    scheduler.pacing.observe(0, 10_000, 1.0)

    def asked(number: int, ids: list[int], arrived: float) -> Sequence:
        request = GenerationRequest(number, tuple(ids), SamplingParams())
        return Sequence(request, ignore, request.prompt_ids, 1, arrived=arrived)

    first = asked(1, [7] * 900, 0.0)
    scheduler.add(first)
    for chunk in scheduler.schedule(0.0).chunks:
        scheduler.commit(chunk)
    scheduler.finish(first)
    scheduler.add(asked(2, [8] * 200, 1.0))
    scheduler.add(asked(3, [7] * 900, 1.01))
    assert [each.id for each in scheduler.sequences] == [3, 2]
