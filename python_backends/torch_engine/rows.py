"""How the tokens of a step are laid out as rows of one matrix. Imports no torch.

Sequences that decode come first, in the order of their slots, so that neighbours can attend in one call; then chunks
of prompts; then padding up to the number of rows that the linear layers are quickest with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# One call for two runs costs some attention over tokens that do not count; this many are cheaper than another call.
_FREE_TOKENS = 256


@dataclass(frozen=True)
class Extent:
    """A chunk: rows `first` to `last` of the step are the tokens `start` to `end` of the sequence in `slot`."""

    slot: int
    first: int
    last: int
    start: int
    end: int


@dataclass
class Run:
    """Decoding sequences in nearby slots: row `first + i` belongs to slot `first_slot + members[i]`."""

    first: int
    first_slot: int
    members: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    useful: int = 0

    @property
    def last(self) -> int:
        return self.first + len(self.members)

    @property
    def last_slot(self) -> int:
        return self.first_slot + len(self.ends)

    @property
    def num_slots(self) -> int:
        return len(self.ends)

    @property
    def length(self) -> int:
        return max(self.ends)

    @property
    def has_gaps(self) -> bool:
        return len(self.members) < len(self.ends)

    def takes(self, extent: Extent) -> bool:
        """Whether another sequence fits without too much attention over tokens that do not count."""
        work = (extent.slot + 1 - self.first_slot) * max(self.length, extent.end)
        useful = self.useful + extent.end
        return work - useful <= max(_FREE_TOKENS, useful // 4)

    def add(self, extent: Extent) -> None:
        # A slot in between attends to one token, whatever it is: nobody looks at the result.
        self.ends += [1] * (extent.slot - self.last_slot)
        self.ends.append(extent.end)
        self.members.append(extent.slot - self.first_slot)
        self.useful += extent.end


class Rows:
    """The extents of a step, in the order of its chunks in `extents`, in the order of their rows otherwise."""

    def __init__(self, chunks: Sequence[tuple[int, int, int]], min_rows: int = 1) -> None:
        """`chunks` are (slot, start, end), all of different slots."""
        self.order = sorted(
            range(len(chunks)), key=lambda index: (chunks[index][2] - chunks[index][1] > 1, chunks[index][0])
        )
        placed: dict[int, Extent] = {}
        first = 0
        for index in self.order:
            slot, start, end = chunks[index]
            placed[index] = Extent(slot, first, first + end - start, start, end)
            first += end - start
        self.extents = [placed[index] for index in range(len(chunks))]
        self.decodes = [placed[index] for index in self.order if chunks[index][2] - chunks[index][1] == 1]
        self.chunks = [placed[index] for index in self.order[len(self.decodes) :]]
        self.runs = _runs(self.decodes)
        self.num_padding = max(0, min_rows - first)

    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The slot and the position of each row; a row that only pads the step is in slot -1."""
        filled = sum(extent.last - extent.first for extent in self.extents)
        slots, positions = np.full(filled + self.num_padding, -1), np.zeros(filled + self.num_padding, np.int64)
        for extent in self.extents:
            slots[extent.first : extent.last] = extent.slot
            positions[extent.first : extent.last] = np.arange(extent.start, extent.end)
        return slots, positions


def _runs(decodes: list[Extent]) -> list[Run]:
    runs: list[Run] = []
    for extent in decodes:
        if not runs or not runs[-1].takes(extent):
            runs.append(Run(extent.first, extent.slot))
        runs[-1].add(extent)
    return runs
