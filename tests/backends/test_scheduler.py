"""The scheduler with a fake runner: it checks that every key and value a step reads was really computed before."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backends.errors import QueueFull
from python_backends.torch_engine.scheduler import Scheduler, Step
from python_backends.torch_engine.sequence import Sequence, content_keys
from python_backends.torch_engine.slots import Copy, SlotPool
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent


def silent(event: TokenEvent) -> None:
    """These tests look at the sequences, not at events."""


def sequence(
    number: int,
    prompt: list[int],
    max_tokens: int = 3,
    priority: int = 0,
    arrived: float | None = None,
    deadline: float | None = None,
    salt: str = "",
) -> Sequence:
    request = GenerationRequest(number, tuple(prompt), SamplingParams(priority=priority), (), deadline, salt)
    moment = float(number) if arrived is None else arrived
    return Sequence(request, silent, content_keys(request), max_tokens, arrived=moment)


class FakeRunner:
    """Slots are lists of keys, changed only by moves and chunks. Each step takes a second.

    It checks that a chunk goes on where the last one ended, that nothing is computed twice in one stay, and that what
    it builds on is really there, of its own salt.
    """

    def __init__(
        self,
        num_slots: int = 3,
        capacity: int = 40,
        budget: int = 8,
        max_waiting: int = 99,
        ageing_s: float = 10.0,
        remember: bool = True,
    ) -> None:
        self.pool = SlotPool(num_slots, capacity, remember)
        self.scheduler = Scheduler(self.pool, budget, max_waiting, ageing_s)
        self.now = 0.0
        self.budget = budget
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.ended: list[Sequence] = []
        self.num_preempted = 0

    def add(self, *sequences: Sequence) -> None:
        for new in sequences:
            self.scheduler.add(new)

    def step(self) -> Step:
        """Schedule, compute and commit one step."""
        waiting = {item.id for item in self.scheduler.sequences if item.slot is not None}
        step = self.scheduler.schedule(self.now)
        self.pool.check_integrity()
        self._check(step)
        self._compute(step)
        self.now += 1
        self.num_preempted += sum(item.id in waiting and item.slot is None for item in self.scheduler.sequences)
        return step

    def run_to_the_end(self, max_steps: int = 2000) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                return
            self.step()
        raise AssertionError(f"not done after {max_steps} steps: {self.scheduler!r}")

    def _check(self, step: Step) -> None:
        assert step.chunks or not self.scheduler.has_work, f"an idle step: {self.scheduler!r}"
        assert sum(chunk.num_tokens for chunk in step.chunks) <= self.budget
        assert all(chunk.num_tokens > 0 for chunk in step.chunks)
        owned = [chunk.sequence.slot for chunk in step.chunks]
        assert None not in owned and len(set(owned)) == len(owned), "two chunks in one slot"

    def _compute(self, step: Step) -> None:
        for move in step.moves:
            if isinstance(move, Copy):
                assert len(self.slots[move.source]) >= move.num_tokens, f"{move} copies what is not there"
                self.slots[move.target] = self.slots[move.source][: move.num_tokens]
            else:
                self.slots[move.slot] = []
        for chunk in step.chunks:
            self._compute_chunk(chunk.sequence, chunk.start, chunk.end)
        for chunk in step.chunks:
            samples, owner = chunk.samples, chunk.sequence
            self.scheduler.commit(chunk)
            if samples:
                self._append(owner)

    def _compute_chunk(self, owner: Sequence, start: int, end: int) -> None:
        assert owner.slot is not None
        content = self.slots[owner.slot]
        assert content[:start] == owner.content_keys(0, start), f"{owner.id} reads what was not computed"
        assert start == owner.num_computed < end <= len(owner.tokens)
        content[start:] = owner.content_keys(start, end)

    def _append(self, owner: Sequence) -> None:
        owner.tokens.append(sum(owner.tokens) % 5)
        if owner.num_output_tokens == owner.max_tokens:
            self.scheduler.finish(owner)
            self.ended.append(owner)


def expected_output(prompt: list[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(sum(tokens) % 5)
    return tokens[len(prompt) :]


@dataclass(frozen=True)
class Job:
    prompt: list[int]
    max_tokens: int
    priority: int
    patience: int | None
    salt: str


JOBS = st.lists(
    st.builds(
        Job,
        st.lists(st.integers(0, 2), min_size=1, max_size=14),
        st.integers(1, 6),
        st.integers(-2, 2),
        st.none() | st.integers(0, 30),
        st.sampled_from(("", "a", "b")),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(
    JOBS,
    st.integers(1, 4),
    st.integers(20, 45),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
    st.booleans(),
    st.booleans(),
    st.sampled_from((0.0, 5.0)),
)
def test_everything_ends_with_its_own_tokens(
    jobs: list[Job],
    num_slots: int,
    capacity: int,
    budget: int,
    chance: random.Random,
    aborting: bool,
    remember: bool,
    ageing_s: float,
) -> None:
    runner = FakeRunner(num_slots, capacity, budget, ageing_s=ageing_s, remember=remember)
    todo = list(enumerate(jobs))
    submitted: list[Sequence] = []
    dropped: set[int] = set()
    while todo or runner.scheduler.has_work:
        if todo and (not runner.scheduler.has_work or chance.random() < 0.5):
            number, job = todo.pop(0)
            deadline = None if job.patience is None else runner.now + job.patience
            new = sequence(number, job.prompt, job.max_tokens, job.priority, runner.now, deadline, job.salt)
            submitted.append(new)
            runner.add(new)
        leaving = runner.scheduler.expired(runner.now)
        if aborting and runner.scheduler.has_work and chance.random() < 0.1:
            leaving = list({*leaving, chance.choice(runner.scheduler.sequences)})
        for sick in leaving:
            runner.scheduler.finish(sick, remember=chance.random() < 0.5)
            dropped.add(sick.id)
        step = runner.step()
        assert not any(chunk.sequence.id in dropped for chunk in step.chunks)
        runner.scheduler.observe(step, chance.choice((0.0, 0.01, 0.02, 1.0)))
    assert {item.id for item in runner.ended} | dropped == {item.id for item in submitted}
    for ended in runner.ended:
        job = jobs[ended.id]
        assert ended.output_ids == expected_output(job.prompt, job.max_tokens)
        assert ended.num_cached < len(job.prompt)
    assert runner.pool.num_free == num_slots
    assert runner.pool.num_tokens_in_use == 0
    assert all(item.slot is None for item in submitted)


@pytest.mark.parametrize("ageing_s", [0.0, 1000.0])
def test_priority_goes_before_arrival(ageing_s: float) -> None:
    runner = FakeRunner(num_slots=1, ageing_s=ageing_s)
    runner.add(*(sequence(number, [number], 1, priority) for number, priority in enumerate((1, 0, 1, -1, 0))))
    runner.run_to_the_end()
    assert [ended.id for ended in runner.ended] == [3, 1, 4, 0, 2]


def test_running_sequences_get_their_token_before_any_prompt() -> None:
    runner = FakeRunner(budget=4)
    reader, long_prompt = sequence(0, [1], 9, priority=1), sequence(1, [2] * 20, 1, priority=0)
    runner.add(reader)
    runner.step()
    runner.add(long_prompt)
    sizes = [[(chunk.sequence.id, chunk.num_tokens) for chunk in runner.step().chunks] for _ in range(3)]
    assert sizes == [[(0, 1), (1, 3)]] * 3


def test_a_long_prompt_is_read_in_chunks_of_the_budget() -> None:
    runner = FakeRunner(budget=8)
    runner.add(sequence(0, list(range(20)), 1))
    spans = []
    while runner.scheduler.has_work:
        step = runner.scheduler.schedule()
        spans.append([(chunk.start, chunk.end, chunk.samples) for chunk in step.chunks])
        runner._compute(step)
    assert spans == [[(0, 8, False)], [(8, 16, False)], [(16, 20, True)]]


def test_the_last_comer_is_preempted_and_finishes_later() -> None:
    runner = FakeRunner(num_slots=2, capacity=24, budget=20)
    first, last = sequence(0, [1, 2, 1, 2, 1], 12), sequence(1, [2, 2, 1, 1, 1], 12)
    runner.add(first, last)
    runner.run_to_the_end()
    assert [ended.id for ended in runner.ended] == [0, 1]
    assert (first.num_preemptions, last.num_preemptions > 0) == (0, True)
    assert last.output_ids == expected_output([2, 2, 1, 1, 1], 12)
    assert runner.scheduler.num_preemptions == last.num_preemptions == runner.num_preempted


def test_own_work_found_again_is_no_hit() -> None:
    runner = FakeRunner(num_slots=2, capacity=24, budget=20)
    runner.add(sequence(0, [1, 2, 1, 2, 1], 12), last := sequence(1, [2, 2, 1, 1, 1], 12))
    runner.run_to_the_end()
    assert (last.num_preemptions > 0, last.num_cached) == (True, 0)


def test_equal_prompts_in_one_step_share_what_is_known() -> None:
    runner = FakeRunner(num_slots=3, capacity=60, budget=30)
    runner.add(sequence(0, [1, 2, 0, 1, 2], 1))
    runner.run_to_the_end()
    runner.add(sequence(1, [1, 2, 0, 1, 2], 2), sequence(2, [1, 2, 0, 1, 2], 2))
    runner.run_to_the_end()
    assert [(ended.num_cached, ended.output_ids) for ended in runner.ended[1:]] == [(4, [1, 2])] * 2


def test_the_queue_is_bounded_beyond_the_free_slots() -> None:
    runner = FakeRunner(num_slots=1, max_waiting=2)
    runner.add(*(sequence(number, [1]) for number in range(3)))
    with pytest.raises(QueueFull, match="3 requests wait already; the limit is 2"):
        runner.add(sequence(3, [1]))
    runner.step()
    assert repr(runner.scheduler) == ("<Scheduler 2 waiting, 1 running, <SlotPool 1/1 slots in use, 1/40 tokens>>")
    with pytest.raises(QueueFull):
        runner.add(sequence(4, [1]))
    runner.run_to_the_end()
    assert [ended.id for ended in runner.ended] == [0, 1, 2]


@pytest.mark.parametrize("steps_before", [0, 1, 2, 3])
def test_an_aborted_sequence_leaves_nothing(steps_before: int) -> None:
    runner = FakeRunner(num_slots=1, budget=2)
    runner.add(gone := sequence(0, [1, 2, 0, 1], 4), sequence(1, [1, 2, 0, 1], 4))
    for _ in range(steps_before):
        runner.step()
    runner.scheduler.finish(gone)
    assert gone not in runner.scheduler.sequences
    runner.run_to_the_end()
    assert [ended.output_ids for ended in runner.ended] == [expected_output([1, 2, 0, 1], 4)]
    assert repr(runner.scheduler).startswith("<Scheduler 0 waiting, 0 running, <SlotPool 0/1")


def test_nobody_overtakes_one_that_waits_for_room() -> None:
    runner = FakeRunner(num_slots=3, capacity=20, budget=20)
    runner.add(sequence(0, [1] * 12, 6))
    runner.step()
    runner.add(sequence(1, [2] * 12, 6), sequence(2, [0], 2))
    started: list[int] = []
    while runner.scheduler.has_work:
        started += [chunk.sequence.id for chunk in runner.step().chunks if chunk.sequence.id not in started]
    assert started == [0, 1, 2]
    assert runner.num_preempted == 0


def wait_beside_urgent_ones(priority: int, ageing_s: float, num_steps: int = 60) -> float | None:
    """How long a request of `priority` waits for the only slot while a new one of priority 0 comes in every second."""
    runner = FakeRunner(num_slots=1, ageing_s=ageing_s)
    runner.add(patient := sequence(0, [1, 2], 1, priority, arrived=0.0))
    for number in range(1, num_steps):
        runner.add(sequence(number, [number], 1, 0, arrived=runner.now))
        runner.step()
        if patient in runner.ended:
            return patient.queued_s
    return None


@pytest.mark.parametrize(("priority", "ageing_s"), [(1, 5.0), (3, 5.0), (2, 12.0)])
def test_waiting_lifts_a_request(priority: int, ageing_s: float) -> None:
    waited = wait_beside_urgent_ones(priority, ageing_s)
    assert waited is not None and 0 <= waited - priority * ageing_s <= 1


def test_strict_priorities_may_starve() -> None:
    assert wait_beside_urgent_ones(1, 0.0) is None


def test_who_arrives_first_is_served_first_whatever_the_numbers() -> None:
    runner = FakeRunner(num_slots=1)
    runner.add(sequence(7, [1], 1, arrived=1.0), sequence(3, [1], 1, arrived=2.0), sequence(5, [1], 1, arrived=0.0))
    runner.run_to_the_end()
    assert [ended.id for ended in runner.ended] == [5, 7, 3]


def test_expired_sequences_are_named_wherever_they_are() -> None:
    runner = FakeRunner(num_slots=1)
    running, waiting, patient = (
        sequence(number, [1], 9, deadline=when) for number, when in enumerate((3.0, 2.0, None))
    )
    runner.add(running, waiting, patient)
    runner.step()
    assert runner.scheduler.expired(1.9) == []
    assert runner.scheduler.expired(2.0) == [waiting]
    assert set(runner.scheduler.expired(3.0)) == {running, waiting}


def test_an_urgent_prompt_is_read_before_the_rest_of_a_long_one() -> None:
    runner = FakeRunner(budget=4, num_slots=2)
    runner.add(sequence(0, [0] * 12, 1, priority=1))
    runner.step()
    runner.add(sequence(1, [1] * 6, 1, priority=-1))
    order = [[(chunk.sequence.id, chunk.num_tokens) for chunk in runner.step().chunks] for _ in range(4)]
    assert order == [[(1, 4)], [(1, 2), (0, 2)], [(0, 4)], [(0, 2)]]


def test_prompts_are_read_one_after_the_other_and_small_ones_share_a_step() -> None:
    runner = FakeRunner(budget=10, num_slots=5, capacity=99)
    runner.add(*(sequence(number, [number] * size, 1) for number, size in enumerate((12, 12, 3, 3))))
    order = [[(chunk.sequence.id, chunk.num_tokens) for chunk in runner.step().chunks] for _ in range(3)]
    assert order == [[(0, 10)], [(0, 2), (1, 8)], [(1, 4), (2, 3), (3, 3)]]


def test_a_prompt_comes_in_only_with_room_for_all_of_it() -> None:
    runner = FakeRunner(budget=4, num_slots=3, capacity=40)
    runner.add(sequence(0, [1] * 16, 4), sequence(1, [2] * 21, 4))
    runner.step()
    assert (runner.scheduler.num_running, runner.pool.num_tokens) == (1, 16)
    runner.run_to_the_end()
    assert runner.scheduler.num_preemptions == 0


class Uncut(FakeRunner):
    """Checks that no chunk cuts what sees each other, and that nothing else goes beyond the budget."""

    def _check(self, step: Step) -> None:
        for chunk in step.chunks:
            edges = (chunk.start, chunk.end)
            assert not [run for run in chunk.sequence.mutual for edge in edges if run.start < edge < run.stop]
        sizes = [chunk.num_tokens for chunk in step.chunks]
        assert all(size > 0 for size in sizes)
        if sum(sizes) > self.budget:
            last = step.chunks[-1]
            assert range(last.start, last.end) in last.sequence.mutual and sum(sizes[:-1]) < self.budget


PARTS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1), min_size=1, max_size=5)), min_size=1, max_size=4)


def pictured(number: int, parts: list[tuple[bool, list[int]]]) -> Sequence:
    """A prompt of these parts; the tokens of some see each other in both directions."""
    prompt: list[int] = []
    mutual: list[range] = []
    for sees_itself, tokens in parts:
        mutual += [range(len(prompt), len(prompt) + len(tokens))] if sees_itself else []
        prompt += tokens
    request = GenerationRequest(number, tuple(prompt), SamplingParams())
    return Sequence(request, silent, content_keys(request, mutual), 3, arrived=float(number), mutual=mutual)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=8), st.integers(1, 9), st.integers(24, 60), st.booleans())
def test_what_sees_each_other_is_never_cut(
    prompts: list[list[tuple[bool, list[int]]]], budget: int, capacity: int, remember: bool
) -> None:
    runner = Uncut(3, capacity, budget, remember=remember)
    runner.add(*(pictured(number, parts) for number, parts in enumerate(prompts)))
    runner.run_to_the_end()
    for ended in runner.ended:
        assert ended.output_ids == expected_output(list(ended.request.prompt_ids), 3)
        assert not [run for run in ended.mutual if run.start < ended.num_cached < run.stop]


def test_an_image_at_the_end_of_a_prompt_is_computed_again_for_its_logits() -> None:
    runner = Uncut(2, 60, 30)
    for number in range(2):
        runner.add(pictured(number, [(False, [1, 0]), (True, [1, 1, 0])]))
        runner.run_to_the_end()
    runner.add(pictured(2, [(False, [1, 0]), (True, [1, 1, 0]), (False, [1])]))
    runner.run_to_the_end()
    assert [ended.num_cached for ended in runner.ended] == [0, 2, 5]


def test_salted_prompts_share_only_with_their_like() -> None:
    runner = FakeRunner(num_slots=4, capacity=99, budget=30)
    for number, salt in enumerate(("", "a", "b", "a")):
        runner.add(sequence(number, [1, 2, 0, 1], 1, salt=salt))
        runner.run_to_the_end()
    assert [ended.num_cached for ended in runner.ended] == [0, 0, 0, 3]
