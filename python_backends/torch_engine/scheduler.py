"""Which tokens of which sequences the next step computes. Plain Python: no torch, no model, and no clock of its own.

Each step has a budget of tokens. Running sequences get their next token first, so that a long prompt never stalls
them; `pacing` says how much of a prompt may be read beside them. Prompts are read one after the other: the median of
many waits half as long as if all were read at once. When the cache has no room for a running sequence, the one that is
last in order goes back to waiting and is recomputed later. The order is that of `admission.turn`, and a request counts
as if it had come by the time that reading its prompt takes later: a short one overtakes a long one that has just come,
and nobody waits longer for that than the prompt is worth. Who needs image features that are not here yet waits apart,
and holds nobody up. A range of tokens that see each other in both directions is never cut: it is read in one step,
however much else the step may compute.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from python_backends.admission import turn
from python_backends.errors import QueueFull
from python_backends.torch_engine.pacing import Pacing
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import Move, SlotPool

# Room that is left for each running sequence when one comes in; without it the newcomer would soon be sent back.
_GROWTH = 4


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
    """Make the `moves` in the cache, in order, then compute the `chunks`; the first `num_decodes` are decodes."""

    chunks: list[Chunk]
    moves: list[Move]
    num_decodes: int = 0

    @property
    def num_prompt_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks[self.num_decodes :])


class Scheduler:
    """Holds every sequence that has been submitted and has not ended, waiting or running.

    `features_came` is told, from any thread, of a sequence that should `resume`.
    """

    def __init__(
        self,
        pool: SlotPool,
        max_num_batched_tokens: int,
        max_waiting: int,
        priority_ageing_s: float = 10.0,
        features_came: Callable[[Sequence], None] | None = None,
    ) -> None:
        self.pool = pool
        self.pacing = Pacing()
        self.num_preemptions = 0
        self._budget = max_num_batched_tokens
        self._max_waiting = max_waiting
        self._ageing_s = priority_ageing_s
        self._unseen_tokens, self._unseen_s = 0, 0.0
        # Both in order, so that nothing is sorted while steps wait.
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._fetching: list[Sequence] = []
        self._features_came = features_came or self.resume

    def __repr__(self) -> str:
        return f"<Scheduler {self.num_waiting} waiting, {self.num_running} running, {self.pool!r}>"

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def is_fetching(self) -> bool:
        return bool(self._fetching)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._fetching)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self._waiting, *self._fetching, *self._running]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises QueueFull when `max_waiting` wait beyond those that free slots are there for."""
        if self.num_waiting >= self._max_waiting + self.pool.num_free:
            raise QueueFull(f"{self.num_waiting} requests wait already; the limit is {self._max_waiting}")
        self.add_fork(sequence)

    def add_fork(self, sequence: Sequence) -> None:
        """Queue a further sequence of a request that was let in already."""
        request = sequence.request
        fresh = len(sequence.tokens) - self._num_cached(sequence)
        first = turn(request.sampling.priority, sequence.arrived + self.pacing.reading_s(fresh), self._ageing_s)
        sequence.order = (*first, request.id, sequence.index)
        self._wait(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Features that it waited for are here; it may have ended since."""
        if sequence in self._fetching:
            self._fetching.remove(sequence)
            self._wait(sequence)

    def expired(self, now: float) -> list[Sequence]:
        """Whose deadline has passed."""
        return [each for each in self.sequences if each.request.deadline is not None and each.request.deadline <= now]

    def schedule(self, now: float = 0.0) -> Step:
        """Choose the next step; empty when nobody can go on. Sequences that start remember `now`."""
        decodes = self._decode()
        chunks = self._read_prompts(decodes, now)
        # A step that is empty is not run, and its moves would be lost.
        moves = self.pool.take_moves() if decodes or chunks else []
        return Step(decodes + chunks, moves, len(decodes))

    def observe(self, step: Step, seconds: float, is_done: bool = True) -> None:
        """The step took that long. If it is not done yet, as on a GPU, the rest of its time shows in the next one's."""
        self._unseen_tokens += step.num_prompt_tokens
        self._unseen_s += seconds
        if is_done:
            self.pacing.observe(step.num_decodes, self._unseen_tokens, self._unseen_s)
            self._unseen_tokens, self._unseen_s = 0, 0.0

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
        elif sequence in self._fetching:
            self._fetching.remove(sequence)
        self._vacate(sequence, remember)

    def _decode(self) -> list[Chunk]:
        """One token for each sequence whose prompt is read, most urgent first, as far as budget and cache go."""
        chunks: list[Chunk] = []
        # A copy, because making room sends sequences back.
        for sequence in tuple(self._running):
            if len(chunks) == self._budget:
                break
            if sequence.num_uncomputed == 1 and sequence.slot is not None and self._may_grow(sequence, sequence.slot):
                chunks.append(Chunk(sequence, 1))
        return chunks

    def _may_grow(self, sequence: Sequence, slot: int) -> bool:
        """Room for one more token, if need be by sending back whoever is last in order."""
        while not self.pool.may_reserve(slot, 1):
            # It comes behind everyone who has a chunk in this step, for those go in the same order.
            last = self._running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _read_prompts(self, decodes: list[Chunk], now: float) -> list[Chunk]:
        """Chunks of prompts, strictly in order: who cannot start yet is not overtaken by a smaller request."""
        chunks: list[Chunk] = []
        unread = [running for running in self._running if running.num_uncomputed > 1]
        soon = [*unread, *self._waiting[: self.pool.num_free]]
        unread_tokens, tokens = sum(each.num_uncomputed for each in soon), sum(len(each.tokens) for each in soon)
        budget = self.pacing.prompt_tokens(len(decodes), len(soon), unread_tokens, tokens)
        budget = min(budget, self._budget - len(decodes))
        while budget > 0 and (sequence := self._next_prompt(unread, now)):
            end = sequence.chunk_end(sequence.num_computed + min(sequence.num_uncomputed, budget))
            chunks.append(Chunk(sequence, end - sequence.num_computed))
            budget -= chunks[-1].num_tokens
        return chunks

    def _next_prompt(self, unread: list[Sequence], now: float) -> Sequence | None:
        """Whoever is first in order of those that have begun and of those that wait."""
        first = self._waiting[0] if self._waiting else None
        if first and (not unread or first.order < unread[0].order) and self._may_start(first, now):
            return first
        return unread.pop(0) if unread else None

    def _may_start(self, sequence: Sequence, now: float) -> bool:
        """Let it run, with what the cache remembers of it, if there is a slot and room for all that is known of it."""
        if not self.pool.has_room(len(sequence.tokens), _GROWTH * len(self._running)):
            return False
        self._waiting.remove(sequence)
        # Asked again: what covered an image when the sequence came may be forgotten by now.
        if self._is_set_aside(sequence):
            return False
        keys = sequence.content_keys(0, len(sequence.tokens))
        placement = self.pool.acquire(sequence.id, keys, sequence.parent, sequence.num_fresh)
        assert placement is not None
        insort(self._running, sequence, key=_order)
        sequence.slot, sequence.num_computed = placement.index, placement.num_cached
        # What a preempted sequence finds again, or a fork, is the request's own work and no hit.
        if not sequence.num_preemptions and sequence.parent is None:
            sequence.num_cached, sequence.queued_s = placement.num_cached, now - sequence.arrived
        return True

    def _wait(self, sequence: Sequence) -> None:
        if not self._is_set_aside(sequence):
            insort(self._waiting, sequence, key=_order)

    def _is_set_aside(self, sequence: Sequence) -> bool:
        """Whether images that the cache does not cover lack their features; these are then asked for."""
        if not sequence.lacking(0):
            return False
        lacking = sequence.lacking(self._num_cached(sequence))
        if not lacking:
            return False
        self._fetching.append(sequence)
        # All are under way before the first is awaited.
        for source in lacking:
            source.ask()
        lacking[0].then(partial(self._features_came, sequence))
        return True

    def _num_cached(self, sequence: Sequence) -> int:
        """How many of its tokens the cache would give it now."""
        keys = sequence.content_keys(0, len(sequence.tokens))
        return self.pool.num_cached(keys, sequence.parent, sequence.num_fresh)

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._vacate(sequence)
        insort(self._waiting, sequence, key=_order)
        sequence.num_preemptions += 1
        self.num_preemptions += 1

    def _vacate(self, sequence: Sequence, remember: bool = True) -> None:
        if sequence.slot is not None:
            self.pool.release(sequence.slot, remember)
        sequence.slot, sequence.num_computed = None, 0


def _order(sequence: Sequence) -> tuple[int, float, int, int]:
    return sequence.order
