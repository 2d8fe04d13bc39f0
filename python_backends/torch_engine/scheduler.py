"""Which tokens of which sequences the next step computes. Plain Python: it imports no torch and knows no model.

Each step has a budget of tokens. Running sequences get their next token first, so that a long prompt never stalls
them; what is left of the budget goes to prompts, in chunks, in order of priority and arrival. When the cache has no
room for a running sequence, the one that came last goes back to waiting and is recomputed later.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_backends.errors import QueueFull
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import Move, SlotPool


@dataclass(frozen=True)
class Chunk:
    """The next `num_tokens` uncomputed tokens of a sequence."""

    sequence: Sequence
    num_tokens: int

    @property
    def start(self) -> int:
        return self.sequence.num_computed

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the end of what is known, so that its last logits give the next token."""
        return self.end == len(self.sequence.tokens)


@dataclass(frozen=True)
class Step:
    """What to do next: make the `moves` in the cache, in order, then compute the `chunks`."""

    chunks: list[Chunk]
    moves: list[Move]


class Scheduler:
    """Holds every sequence that has been submitted and has not ended, waiting or running."""

    def __init__(self, pool: SlotPool, max_num_batched_tokens: int, max_waiting: int) -> None:
        self.pool = pool
        self._budget = max_num_batched_tokens
        self._max_waiting = max_waiting
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []

    def __repr__(self) -> str:
        return f"<Scheduler {len(self._waiting)} waiting, {len(self._running)} running, {self.pool!r}>"

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self._waiting, *self._running]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises QueueFull when `max_waiting` wait beyond those that free slots are there for."""
        if len(self._waiting) >= self._max_waiting + self.pool.num_free:
            raise QueueFull(f"{len(self._waiting)} requests wait already; the limit is {self._max_waiting}")
        self._waiting.append(sequence)

    def schedule(self) -> Step:
        """Choose the next step; empty only when there is no work."""
        chunks = self._continue_running()
        self._admit_waiting(chunks)
        return Step(chunks, self.pool.take_moves())

    def commit(self, chunk: Chunk) -> None:
        """The chunk has been computed; its tokens are now in the cache."""
        sequence = chunk.sequence
        assert sequence.slot is not None
        self.pool.commit(sequence.slot, sequence.content_keys(chunk.start, chunk.end))
        sequence.num_computed = chunk.end

    def finish(self, sequence: Sequence, remember: bool = True) -> None:
        """Forget a sequence that has ended, wherever it is. Its slot becomes free; what it holds may serve others."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._vacate(sequence, remember)

    def _continue_running(self) -> list[Chunk]:
        """Decodes first: with one uncomputed token each they cost little and somebody is reading along."""
        chunks: list[Chunk] = []
        budget = self._budget
        for sequence in sorted(self._running, key=lambda running: (running.num_uncomputed > 1, running.order)):
            size = min(sequence.num_uncomputed, budget)
            if size == 0 or sequence not in self._running or not self._may_reserve(sequence, size, chunks):
                continue
            chunks.append(Chunk(sequence, size))
            budget -= size
        return chunks

    def _admit_waiting(self, chunks: list[Chunk]) -> None:
        """Strictly in order: who cannot start yet is not overtaken by a smaller request."""
        budget = self._budget - sum(chunk.num_tokens for chunk in chunks)
        for sequence in sorted(self._waiting, key=lambda waiting: waiting.order):
            chunk = self._admit(sequence, budget) if budget > 0 else None
            if chunk is None:
                return
            chunks.append(chunk)
            budget -= chunk.num_tokens

    def _admit(self, sequence: Sequence, budget: int) -> Chunk | None:
        """Let it run with a first chunk of at most `budget` tokens; None if there is no slot or no room."""
        placement = self.pool.acquire(sequence.id, sequence.content_keys(0, len(sequence.tokens)), budget)
        if placement is None:
            return None
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.slot, sequence.num_computed = placement.index, placement.num_cached
        # What a preempted sequence finds again is its own work and no hit.
        if not sequence.num_preemptions:
            sequence.num_cached = placement.num_cached
        return Chunk(sequence, placement.num_reserved)

    def _may_reserve(self, sequence: Sequence, size: int, chunks: list[Chunk]) -> bool:
        """Room for `size` more tokens, if need be by sending later comers back to waiting."""
        assert sequence.slot is not None
        while not self.pool.may_reserve(sequence.slot, size):
            victim = self._last_without_work(chunks)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _last_without_work(self, chunks: list[Chunk]) -> Sequence:
        """The running sequence that is last in order, of those that this step does not compute already."""
        busy = {chunk.sequence.id for chunk in chunks}
        return max((running for running in self._running if running.id not in busy), key=lambda running: running.order)

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._vacate(sequence)
        self._waiting.append(sequence)
        sequence.num_preemptions += 1

    def _vacate(self, sequence: Sequence, remember: bool = True) -> None:
        if sequence.slot is not None:
            self.pool.release(sequence.slot, remember)
        sequence.slot, sequence.num_computed = None, 0
