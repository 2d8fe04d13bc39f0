"""Book-keeping of the KV cache: which slot belongs to whom, and what a free slot still remembers. Imports no torch.

A slot is a region that can hold one sequence of the greatest length. When its sequence ends, the slot keeps its content
until another sequence needs the slot or the memory: that is the prefix cache.

    slot state      owner     keys                       its memory counts
    in use          sequence  what is computed so far    yes
    remembered      none      content of the last owner  yes, evicted least recently used first
    empty           none      none                       no
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field


@dataclass
class Slot:
    index: int
    owner: int | None = None
    keys: list[int] = field(default_factory=list)
    reserved: int = 0
    last_used: int = 0


@dataclass(frozen=True)
class Placement:
    """Where a sequence goes: copy `num_cached` tokens from slot `source` to slot `index` unless they are the same."""

    index: int
    source: int
    num_cached: int


class SlotPool:
    """`num_slots` slots that together may hold at most `capacity` tokens."""

    def __init__(self, num_slots: int, capacity: int, remember: bool = True) -> None:
        self.capacity = capacity
        self._slots = [Slot(index) for index in range(num_slots)]
        self._remember = remember
        self._clock = 0
        self._forgotten: list[int] = []

    def __repr__(self) -> str:
        used = sum(slot.owner is not None for slot in self._slots)
        return f"<SlotPool {used}/{len(self._slots)} slots in use, {self.num_tokens}/{self.capacity} tokens>"

    @property
    def num_tokens(self) -> int:
        return sum(len(slot.keys) + slot.reserved for slot in self._slots)

    @property
    def num_free(self) -> int:
        return sum(slot.owner is None for slot in self._slots)

    def acquire(self, owner: int, keys: Ordered[int], max_cached: int) -> Placement | None:
        """Take a free slot for `owner`, the one that remembers most of `keys` if any; None when all are in use.

        At most `max_cached` tokens are taken from the cache: the last prompt token must be computed to get logits.
        """
        free = [slot for slot in self._slots if slot.owner is None]
        if not free:
            return None
        source, matched = self._best_source(keys)
        matched = min(matched, max_cached)
        target = source if matched and source.owner is None else self._victim(free)
        self._clock += 1
        target.owner, target.last_used = owner, self._clock
        if target is not source or not matched:
            self._forget(target)
        target.keys = list(keys[:matched])
        return Placement(target.index, source.index if matched else target.index, matched)

    def may_reserve(self, index: int, num_tokens: int) -> bool:
        """Reserve `num_tokens` more for slot `index`, forgetting old content if need be; False if there is no room."""
        while self.num_tokens + num_tokens > self.capacity:
            remembered = [slot for slot in self._slots if slot.owner is None and slot.keys]
            if not remembered:
                return False
            self._forget(min(remembered, key=lambda slot: slot.last_used))
        self._slots[index].reserved += num_tokens
        return True

    def commit(self, index: int, keys: Ordered[int]) -> None:
        """The reserved tokens, named by `keys`, are now computed in slot `index`: others may copy them."""
        slot = self._slots[index]
        slot.keys.extend(keys)
        slot.reserved = 0

    def release(self, index: int, computed: bool = True) -> None:
        """The owner is done. What was not computed, only promised by a placement, must not be remembered."""
        slot = self._slots[index]
        slot.owner, slot.reserved = None, 0
        if not (self._remember and computed):
            self._forget(slot)

    def take_forgotten(self) -> list[int]:
        """Slots whose content was dropped since the last call; their memory is given back before the next step."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def check_integrity(self) -> None:
        owners = [slot.owner for slot in self._slots if slot.owner is not None]
        assert len(owners) == len(set(owners)), f"a sequence owns two slots: {self!r}"
        assert self.num_tokens <= self.capacity, f"more tokens than capacity: {self!r}"

    def _best_source(self, keys: Ordered[int]) -> tuple[Slot, int]:
        if not self._remember:
            return self._slots[0], 0
        matches = [(_common_prefix(slot.keys, keys), slot.owner is None, -slot.index) for slot in self._slots]
        matched, _, negative_index = max(matches)
        return self._slots[-negative_index], matched

    def _victim(self, free: list[Slot]) -> Slot:
        return min(free, key=lambda slot: (bool(slot.keys), slot.last_used))

    def _forget(self, slot: Slot) -> None:
        if slot.keys:
            self._forgotten.append(slot.index)
        slot.keys = []


def _common_prefix(known: Ordered[int], wanted: Ordered[int]) -> int:
    length = min(len(known), len(wanted))
    if known[:length] == wanted[:length]:
        return length
    return next(i for i in range(length) if known[i] != wanted[i])
