"""Book-keeping of the KV cache: which slot belongs to whom, and what a free slot still remembers. Imports no torch.

A slot is a region that can hold one sequence of the greatest length. When its sequence ends, the slot keeps its content
until another sequence needs the slot or the memory: that is the prefix cache.

    slot state      owner     keys                       its memory counts
    in use          sequence  what is computed so far    yes
    remembered      none      content of the last owner  yes, evicted least recently used first
    empty           none      none                       no

A sequence gets room for all that is known of it when it comes in, and for one more token in each step after that. What
this means for the memory is a list of moves, to be made in order before the next step.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field


@dataclass
class Slot:
    """`touched` tokens have memory, also when a new owner uses fewer of them; `reserved` ones are not computed yet."""

    index: int
    owner: int | None = None
    keys: list[int] = field(default_factory=list)
    reserved: int = 0
    touched: int = 0
    last_used: int = 0

    @property
    def num_held(self) -> int:
        return max(len(self.keys) + self.reserved, self.touched)


@dataclass(frozen=True)
class Copy:
    """The first `num_tokens` tokens of slot `source` go to slot `target`."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True)
class Forget:
    """The memory of `slot` goes back to the system."""

    slot: int


Move = Copy | Forget


@dataclass(frozen=True)
class Placement:
    """Where a sequence goes: slot `index` has its first `num_cached` tokens, and room for the rest."""

    index: int
    num_cached: int


class SlotPool:
    """`num_slots` slots that together may hold at most `capacity` tokens."""

    def __init__(self, num_slots: int, capacity: int, remember: bool = True) -> None:
        self.capacity = capacity
        self.num_slots = self.num_free = num_slots
        # Running sums over the slots: asked several times for every sequence of every step.
        self.num_tokens = self.num_tokens_in_use = 0
        self._slots = [Slot(index) for index in range(num_slots)]
        self._remember = remember
        self._clock = 0
        self._moves: list[Move] = []

    def __repr__(self) -> str:
        used = self.num_slots - self.num_free
        return f"<SlotPool {used}/{self.num_slots} slots in use, {self.num_tokens}/{self.capacity} tokens>"

    def has_room(self, num_tokens: int, headroom: int = 0) -> bool:
        """Whether a sequence of `num_tokens` may come in and the others still grow by `headroom` afterwards."""
        spare = self.capacity - self.num_tokens_in_use - num_tokens
        return self.num_free > 0 and spare >= (headroom if self.num_tokens_in_use else 0)

    def num_cached(self, keys: Ordered[int], parent: int | None = None, num_fresh: int = 1) -> int:
        """How many of `keys` an `acquire` at this moment finds."""
        return min(self._best_source(keys, parent)[1], len(keys) - num_fresh)

    def acquire(
        self, owner: int, keys: Ordered[int], parent: int | None = None, num_fresh: int = 1
    ) -> Placement | None:
        """Take a free slot for `owner`, with what is remembered of `keys` and room for the rest.

        The last `num_fresh` of `keys` are never taken from the cache: one must be computed to get logits. A pool that
        remembers nothing still lets a fork copy from its `parent`. None, and nothing changed, when there is no room.
        """
        if not self.has_room(len(keys)):
            return None
        source, matched = self._best_source(keys, parent)
        matched = min(matched, len(keys) - num_fresh)
        target = self._target(source, matched, len(keys))
        self._occupy(target, owner, source, keys[:matched], len(keys) - matched)
        self._make_room()
        return Placement(target.index, matched)

    def may_reserve(self, index: int, num_tokens: int) -> bool:
        """Room in slot `index` for `num_tokens` that are not computed yet, if need be by forgetting old content."""
        slot = self._slots[index]
        growth = max(0, len(slot.keys) + num_tokens - slot.num_held)
        if self.num_tokens_in_use + growth > self.capacity:
            return False
        slot.reserved = max(slot.reserved, num_tokens)
        self.num_tokens += growth
        self.num_tokens_in_use += growth
        self._make_room()
        return True

    def commit(self, index: int, keys: Ordered[int]) -> None:
        """Reserved tokens, named by `keys`, are now computed in slot `index`: others may copy them."""
        slot = self._slots[index]
        assert len(keys) <= slot.reserved, f"{len(keys)} tokens for {slot}"
        slot.keys.extend(keys)
        slot.reserved -= len(keys)

    def release(self, index: int, remember: bool = True) -> None:
        """The owner is done; its content stays for others unless it is not to be trusted."""
        slot = self._slots[index]
        trusted = self._remember and remember
        self._count(slot, -1)
        # What was reserved and not computed has no memory yet, unless the computation is what failed.
        slot.touched = max(slot.touched, len(slot.keys)) if trusted else slot.num_held
        slot.owner, slot.reserved = None, 0
        slot.last_used = self._tick()
        self.num_free += 1
        self._count(slot, 1)
        if not trusted:
            self._forget(slot)

    def take_moves(self) -> list[Move]:
        """What to do with the memory since the last call, in this order, before the next step is computed."""
        moves, self._moves = self._moves, []
        return moves

    def check_integrity(self) -> None:
        owned = [slot for slot in self._slots if slot.owner is not None]
        assert len(owned) == len({slot.owner for slot in owned}), f"a sequence owns two slots: {self!r}"
        assert self.num_free == self.num_slots - len(owned), f"free slots are miscounted: {self!r}"
        assert self.num_tokens == sum(slot.num_held for slot in self._slots), f"tokens are miscounted: {self!r}"
        assert self.num_tokens_in_use == sum(slot.num_held for slot in owned), f"tokens are miscounted: {self!r}"
        assert self.num_tokens <= self.capacity, f"more tokens than capacity: {self!r}"
        assert all(slot.owner is not None or not slot.reserved for slot in self._slots), f"room for nobody: {self!r}"

    def _count(self, slot: Slot, sign: int) -> None:
        """Take a slot out of the sums before it changes (-1), and put it back afterwards (+1)."""
        self.num_tokens += sign * slot.num_held
        if slot.owner is not None:
            self.num_tokens_in_use += sign * slot.num_held

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _best_source(self, keys: Ordered[int], parent: int | None) -> tuple[Slot, int]:
        """The slot that begins most like `keys`, and how far; of equals a free one, which need not be copied."""
        best, matched = self._slots[0], 0
        for slot in sorted(self._slots, key=lambda slot: slot.owner is not None):
            if not self._remember and (parent is None or slot.owner != parent):
                continue
            # Only who agrees at this place can match further; that spares nearly all comparisons.
            if matched < min(len(slot.keys), len(keys)) and slot.keys[matched] == keys[matched]:
                length = _common_prefix(slot.keys, keys)
                best, matched = (slot, length) if length > matched else (best, matched)
        return best, matched

    def _target(self, source: Slot, matched: int, size: int) -> Slot:
        """The source itself if nothing of value is lost or there is no room for a copy, else the least valuable slot.

        A copy keeps what the source remembers beyond the common prefix, such as another conversation's history.
        """
        free = [slot for slot in self._slots if slot.owner is None]
        victim = min(free, key=lambda slot: (slot.touched > 0, slot.last_used))
        if not matched or source.owner is not None:
            return victim
        room_for_both = self.num_tokens_in_use + source.num_held + size <= self.capacity
        return victim if room_for_both and matched < len(source.keys) - 1 else source

    def _occupy(self, target: Slot, owner: int, source: Slot, keys: Ordered[int], reserved: int) -> None:
        if target is not source or not keys:
            self._forget(target)
            if keys:
                self._moves.append(Copy(source.index, target.index, len(keys)))
        self._count(target, -1)
        target.keys = list(keys)
        target.touched = max(target.touched, len(keys))
        target.owner, target.reserved = owner, reserved
        target.last_used = source.last_used = self._tick()
        self.num_free -= 1
        self._count(target, 1)

    def _make_room(self) -> None:
        """Forget what nobody owns, least recently used first, until the rest fits."""
        while self.num_tokens > self.capacity:
            remembered = (slot for slot in self._slots if slot.owner is None and slot.touched)
            self._forget(min(remembered, key=lambda slot: slot.last_used))

    def _forget(self, slot: Slot) -> None:
        self._count(slot, -1)
        if slot.touched:
            self._moves.append(Forget(slot.index))
        slot.keys, slot.touched = [], 0
        self._count(slot, 1)


# Comparing slices is far faster than a loop over tokens, and long ones would copy what lies behind a difference.
_BLOCK = 256


def _common_prefix(known: Ordered[int], wanted: Ordered[int]) -> int:
    """Length of the common beginning."""
    start, limit = 0, min(len(known), len(wanted))
    while start < limit and known[start : start + _BLOCK] == wanted[start : start + _BLOCK]:
        start += _BLOCK
    rest = range(start, min(start + _BLOCK, limit))
    return next((place for place in rest if known[place] != wanted[place]), min(limit, start + _BLOCK))
