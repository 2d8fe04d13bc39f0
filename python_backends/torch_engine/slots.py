"""Book-keeping of the KV cache: which slot belongs to whom, and what a free slot still remembers. Imports no torch.

A slot is a region that can hold one sequence of the greatest length. When its sequence ends, the slot keeps its content
until another sequence needs the slot or the memory: that is the prefix cache.

    slot state      owner     keys                       its memory counts
    in use          sequence  what is computed so far    yes
    remembered      none      content of the last owner  yes, evicted least recently used first
    empty           none      none                       no

What this means for the memory is a list of moves, to be made in order before the next step.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field


@dataclass
class Slot:
    """`touched` tokens have memory, also when a new owner uses fewer of them."""

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
    """Where a sequence goes: slot `index` has its first `num_cached` tokens, and room for `num_reserved` more."""

    index: int
    num_cached: int
    num_reserved: int


class SlotPool:
    """`num_slots` slots that together may hold at most `capacity` tokens."""

    def __init__(self, num_slots: int, capacity: int, remember: bool = True) -> None:
        self.capacity = capacity
        self._slots = [Slot(index) for index in range(num_slots)]
        self._remember = remember
        self._clock = 0
        self._moves: list[Move] = []

    def __repr__(self) -> str:
        used = len(self._slots) - self.num_free
        return f"<SlotPool {used}/{len(self._slots)} slots in use, {self.num_tokens}/{self.capacity} tokens>"

    @property
    def num_tokens(self) -> int:
        return sum(slot.num_held for slot in self._slots)

    @property
    def num_free(self) -> int:
        return sum(slot.owner is None for slot in self._slots)

    def acquire(self, owner: int, keys: Ordered[int], max_new: int) -> Placement | None:
        """Take a free slot for `owner`, with what is remembered of `keys` and room for up to `max_new` of the rest.

        None, and nothing changed, when all slots are in use or the memory is. The last of `keys` is never taken from
        the cache: it must be computed to get logits.
        """
        free = [slot for slot in self._slots if slot.owner is None]
        if not free or self._num_in_use >= self.capacity:
            return None
        source, matched = self._best_source(keys)
        matched = min(matched, len(keys) - 1)
        size = min(len(keys) - matched, max_new)
        if self._num_in_use + matched + size > self.capacity:
            return None
        target = self._target(free, source, matched, size)
        self._occupy(target, owner, source, keys[:matched])
        target.reserved = size
        self._make_room()
        return Placement(target.index, matched, size)

    def may_reserve(self, index: int, num_tokens: int) -> bool:
        """Reserve `num_tokens` more for slot `index`, forgetting old content if need be; False if there is no room."""
        slot = self._slots[index]
        slot.reserved += num_tokens
        if self.num_tokens <= self.capacity:
            return True
        if self._num_in_use > self.capacity:
            slot.reserved -= num_tokens
            return False
        self._make_room()
        return True

    def commit(self, index: int, keys: Ordered[int]) -> None:
        """The reserved tokens, named by `keys`, are now computed in slot `index`: others may copy them."""
        slot = self._slots[index]
        slot.keys.extend(keys)
        slot.reserved = 0

    def release(self, index: int, remember: bool = True) -> None:
        """The owner is done; its content stays for others unless it is not to be trusted."""
        slot = self._slots[index]
        slot.touched = slot.num_held
        slot.owner, slot.reserved = None, 0
        if not (self._remember and remember):
            self._forget(slot)

    def take_moves(self) -> list[Move]:
        """What to do with the memory since the last call, in this order, before the next step is computed."""
        moves, self._moves = self._moves, []
        return moves

    def check_integrity(self) -> None:
        owners = [slot.owner for slot in self._slots if slot.owner is not None]
        assert len(owners) == len(set(owners)), f"a sequence owns two slots: {self!r}"
        assert self.num_tokens <= self.capacity, f"more tokens than capacity: {self!r}"
        assert all(slot.owner is not None or not slot.reserved for slot in self._slots), f"room for nobody: {self!r}"

    @property
    def _num_in_use(self) -> int:
        return sum(slot.num_held for slot in self._slots if slot.owner is not None)

    def _best_source(self, keys: Ordered[int]) -> tuple[Slot, int]:
        if not self._remember:
            return self._slots[0], 0
        matches = [(_common_prefix(slot.keys, keys), slot.owner is None, -slot.index) for slot in self._slots]
        matched, _, negative_index = max(matches)
        return self._slots[-negative_index], matched

    def _target(self, free: list[Slot], source: Slot, matched: int, size: int) -> Slot:
        """The source itself if nothing of value is lost or there is no room for a copy, else the least valuable slot.

        A copy keeps what the source remembers beyond the common prefix, such as another conversation's history.
        """
        victim = min(free, key=lambda slot: (slot.touched > 0, slot.last_used))
        if not matched or source.owner is not None:
            return victim
        room_for_both = self._num_in_use + source.num_held + matched + size <= self.capacity
        return victim if room_for_both and matched < len(source.keys) - 1 else source

    def _occupy(self, target: Slot, owner: int, source: Slot, keys: Ordered[int]) -> None:
        self._clock += 1
        target.owner = owner
        target.last_used = source.last_used = self._clock
        if target is not source or not keys:
            self._forget(target)
            if keys:
                self._moves.append(Copy(source.index, target.index, len(keys)))
        target.keys = list(keys)
        target.touched = max(target.touched, len(keys))

    def _make_room(self) -> None:
        """Forget what nobody owns, least recently used first, until the rest fits."""
        excess = self.num_tokens - self.capacity
        remembered = (slot for slot in self._slots if slot.owner is None and slot.touched) if excess > 0 else ()
        for slot in sorted(remembered, key=lambda slot: slot.last_used):
            if excess <= 0:
                return
            excess -= slot.num_held
            self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        if slot.touched:
            self._moves.append(Forget(slot.index))
        slot.keys, slot.touched = [], 0


def _common_prefix(known: Ordered[int], wanted: Ordered[int]) -> int:
    """Length of the common beginning, by halving: slices compare much faster than a loop."""
    low, high = 0, min(len(known), len(wanted))
    while low < high:
        middle = (low + high + 1) // 2
        if known[low:middle] == wanted[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
