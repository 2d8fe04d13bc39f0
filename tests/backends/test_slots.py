"""The cache's book-keeping against a model of the real memory: every slot's true content is a list of keys."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from python_backends.torch_engine.slots import Copy, Forget, Placement, SlotPool

KEYS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


class Memory:
    """What is really in the slots; memory that was given back reads as nothing."""

    def __init__(self, num_slots: int) -> None:
        self.content: list[list[int]] = [[] for _ in range(num_slots)]

    def make(self, moves: list[Copy | Forget]) -> None:
        for move in moves:
            if isinstance(move, Copy):
                assert len(self.content[move.source]) >= move.num_tokens, f"{move} copies what is not there"
                self.content[move.target] = self.content[move.source][: move.num_tokens]
            else:
                self.content[move.slot] = []

    def write(self, index: int, start: int, keys: list[int]) -> None:
        assert len(self.content[index]) >= start, f"slot {index} has a gap before {start}"
        self.content[index][start:] = keys


class PoolMachine(RuleBasedStateMachine):
    """Random owners come, grow and leave."""

    num_slots, capacity = 3, 20

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlotPool(self.num_slots, self.capacity)
        self.memory = Memory(self.num_slots)
        self.owners: dict[int, tuple[Placement, list[int], int]] = {}
        self.count = 0

    @rule(keys=KEYS, first=st.integers(1, 12))
    def acquire(self, keys: list[int], first: int) -> None:
        """A newcomer, and the first chunk of it."""
        before = repr(self.pool)
        placement = self.pool.acquire(self.count, keys)
        if placement is None:
            assert repr(self.pool) == before
            assert self.owners or len(keys) > self.capacity, "nobody runs, and yet there is no room"
            return
        assert placement.index not in {owned.index for owned, _, _ in self.owners.values()}
        assert placement.num_cached < len(keys)
        self.memory.make(self.pool.take_moves())
        assert self.memory.content[placement.index][: placement.num_cached] == keys[: placement.num_cached]
        end = min(placement.num_cached + first, len(keys))
        self._compute(placement.index, placement.num_cached, keys[placement.num_cached : end])
        self.owners[self.count] = (placement, keys, end)
        self.count += 1

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), key=st.integers(0, 2))
    def grow(self, data: st.DataObject, key: int) -> None:
        owner = data.draw(st.sampled_from(sorted(self.owners)))
        placement, keys, end = self.owners[owner]
        next_key = keys[end] if end < len(keys) else key
        if self.pool.may_reserve(placement.index, 1):
            self.memory.make(self.pool.take_moves())
            self._compute(placement.index, end, [next_key])
            self.owners[owner] = (placement, [*keys[:end], next_key, *keys[end + 1 :]], end + 1)
        else:
            assert end >= len(keys), "no room for what was promised"
            assert len(self.owners) > 1 or end == self.capacity, "alone, and yet there is no room"

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), remember=st.booleans())
    def release(self, data: st.DataObject, remember: bool) -> None:
        owner = data.draw(st.sampled_from(sorted(self.owners)))
        placement, keys, end = self.owners.pop(owner)
        assert self.memory.content[placement.index][:end] == keys[:end]
        self.pool.release(placement.index, remember)

    def _compute(self, index: int, start: int, keys: list[int]) -> None:
        self.memory.write(index, start, keys)
        self.pool.commit(index, keys)

    @invariant()
    def is_sound(self) -> None:
        self.pool.check_integrity()
        assert self.pool.num_free == self.num_slots - len(self.owners)


class ForgetfulMachine(PoolMachine):
    """The same without prefix caching: nothing is ever found again."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlotPool(self.num_slots, self.capacity, remember=False)

    @invariant()
    def holds_only_what_is_owned(self) -> None:
        assert self.owners or self.pool.num_tokens == 0
        assert all(placement.num_cached == 0 for placement, _, _ in self.owners.values())


TestPool = PoolMachine.TestCase
TestForgetful = ForgetfulMachine.TestCase
TestPool.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestForgetful.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def fill(pool: SlotPool, owner: int, keys: list[int]) -> Placement:
    """Acquire for all of `keys` and compute them."""
    placement = pool.acquire(owner, keys)
    assert placement is not None
    pool.commit(placement.index, keys[placement.num_cached :])
    return placement


def test_a_common_beginning_is_copied_and_both_histories_stay() -> None:
    pool = SlotPool(4, 100)
    first, second = [1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9]
    pool.release(fill(pool, 0, first).index)
    pool.take_moves()
    placement = fill(pool, 1, second)
    assert pool.take_moves() == [Copy(0, placement.index, 3)]
    pool.release(placement.index)
    assert [fill(pool, 2, [*keys, 0]).num_cached for keys in (first, second)] == [6, 6]


def test_a_continued_conversation_keeps_its_slot() -> None:
    pool = SlotPool(4, 100)
    pool.release(fill(pool, 0, [1, 2, 3]).index)
    assert fill(pool, 1, [1, 2, 3, 4]) == Placement(0, 3)
    assert pool.take_moves() == []


def test_content_of_a_running_sequence_is_shared_as_far_as_it_is_computed() -> None:
    pool = SlotPool(2, 100)
    running = pool.acquire(0, [1, 2, 3, 4])
    assert running is not None
    pool.commit(running.index, [1, 2])
    assert pool.may_reserve(running.index, 2)
    assert repr(pool) == "<SlotPool 1/2 slots in use, 4/100 tokens>"
    assert pool.acquire(1, [1, 2, 3, 4]) == Placement(1, 2)


def test_what_is_not_trusted_is_not_found() -> None:
    pool = SlotPool(1, 100)
    pool.release(fill(pool, 0, [1, 2, 3]).index, remember=False)
    assert pool.take_moves() == [Forget(0)]
    assert fill(pool, 1, [1, 2, 3]).num_cached == 0


def test_the_least_recently_used_content_goes_first() -> None:
    pool = SlotPool(3, 12)
    for owner, keys in enumerate(([1] * 4, [2] * 4, [3] * 4)):
        pool.release(fill(pool, owner, keys).index)
    fill(pool, 3, [1, 1, 1, 1, 1])
    assert repr(pool) == "<SlotPool 1/3 slots in use, 9/12 tokens>"
    assert fill(pool, 4, [3, 3, 3, 3, 3]).num_cached == 4
    assert repr(pool) == "<SlotPool 2/3 slots in use, 10/12 tokens>"


def test_what_was_just_copied_from_is_kept_longest() -> None:
    pool = SlotPool(4, 12)
    for owner, keys in enumerate(([1, 1, 1, 1], [2, 2, 2, 2])):
        pool.release(fill(pool, owner, keys).index)
    copied = fill(pool, 2, [1, 1, 5, 5])
    assert (copied.num_cached, pool.num_tokens) == (2, 12)
    fill(pool, 3, [6, 6])
    assert pool.take_moves()[-1] == Forget(1)


def test_memory_of_a_longer_predecessor_still_counts() -> None:
    pool = SlotPool(1, 10)
    pool.release(fill(pool, 0, [1, 2, 3, 4, 5, 6, 7, 8]).index)
    fill(pool, 1, [1, 2, 9])
    assert pool.num_tokens == 8


def test_a_refused_acquire_leaves_the_prefix_cache_alone() -> None:
    pool = SlotPool(3, 10)
    fill(pool, 0, [1] * 6)
    pool.release(fill(pool, 1, [2] * 4).index)
    assert pool.acquire(2, [2] * 9) is None
    assert pool.take_moves() == []
    assert repr(pool) == "<SlotPool 1/3 slots in use, 10/10 tokens>"
