"""Several conversations behind one prefix, in one row of a batch.

A row is a prefix (system message, pictures) and branches (question and answer pairs). Every branch
sees the prefix and itself, and starts at the position after the prefix, so the network computes
what it would for each conversation alone, while the pictures are paid for once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from training.vision_language.answers import Turn
from training.vision_language.pixels import Size
from training.vision_language.tokenizer import special_ids

IDS = special_ids()
IMAGE, END = IDS["<|image_pad|>"], IDS["<|im_end|>"]
Encode = Callable[[str], list[int]]
NEXT_TURN = "<|im_end|>\n<|im_start|>user\n"
PAD_TO = 16
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Strand:
    """Token ids with positions (time, row, column) and the weight of each in the loss."""

    ids: list[int] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    at: int = 0

    def add_text(self, ids: list[int], weight: float = 0.0) -> None:
        """Appends text tokens, all three position axes alike; weight 0 is not learnt."""
        self.ids += ids
        self.places += [(self.at + k,) * 3 for k in range(len(ids))]
        self.weights += [weight] * len(ids)
        self.at += len(ids)

    def add_picture(self, grid: Size) -> None:
        """Appends a picture with its marks; text goes on after its longer side."""
        self.add_text([IDS["<|vision_start|>"]])
        cells = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
        self.ids += [IMAGE] * len(cells)
        self.places += [(self.at, self.at + row, self.at + column) for row, column in cells]
        self.weights += [0.0] * len(cells)
        # The library's rule: not the number of cells, but the longer side.
        self.at += max(grid)
        self.add_text([IDS["<|vision_end|>"]])


@dataclass
class Row:
    """One row: the shared prefix and its branches."""

    prefix: Strand
    branches: list[Strand] = field(default_factory=list)


def start_prefix(encode: Encode, system: str) -> Strand:
    """A prefix up to the point where the first user text begins; "" is no system message."""
    strand = Strand()
    if system:
        strand.add_text(encode(f"<|im_start|>system\n{system}<|im_end|>\n"))
    strand.add_text(encode("<|im_start|>user\n"))
    return strand


def add_turns(
    encode: Encode, strand: Strand, turns: list[Turn], style: str = "brief", after: tuple[Size, ...] = ()
) -> None:
    """Appends turns; pictures of the grids in `after` follow the first question."""
    for index, turn in enumerate(turns):
        strand.add_text(encode((NEXT_TURN if index else "") + turn.question))
        for grid in after if index == 0 else ():
            strand.add_picture(grid)
        strand.add_text(encode(ANSWER))
        answer = [*encode(turn.reply(style)), END]
        # A plain mean over tokens would let captions drown the one-word answers.
        strand.add_text(answer, len(answer) ** -0.5 if turn.learnt else 0.0)


def branch(
    encode: Encode, prefix: Strand, turns: list[Turn], style: str = "brief", after: tuple[Size, ...] = ()
) -> Strand:
    """A branch of `turns` that goes on where the prefix ends."""
    # Every branch starts at the same position, as if it were the only one.
    strand = Strand(at=prefix.at)
    add_turns(encode, strand, turns, style, after)
    return strand


@dataclass
class Packed:
    """A batch: ids [b, n], positions [3, b, n], mask [b, 1, n, n], weights [b, n]."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> Packed:
        """The same batch on another device."""
        parts = (self.ids, self.positions, self.mask, self.weights)
        return Packed(*(part.to(device) for part in parts))


def attention_mask(owner: torch.Tensor) -> torch.Tensor:
    """Mask [b, 1, n, n] from each token's branch number [b, n] (0: prefix, -1: padding)."""
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    key, query = owner[:, None, :], owner[:, :, None]
    # Padding sees its own branch, that is padding; a row without any key would give NaN.
    return (causal & ((key == query) | ((key == 0) & (query > 0))))[:, None]


def pack(rows: list[Row]) -> Packed:
    """Puts rows side by side and pads them to the longest."""
    strands = [[row.prefix, *row.branches] for row in rows]
    length = max(sum(len(part.ids) for part in parts) for parts in strands)
    # Every new length costs the CPU's matrix library some time to prepare for it.
    length += -length % PAD_TO
    ids = torch.full((len(rows), length), IDS["<|endoftext|>"])
    positions = torch.zeros(3, len(rows), length, dtype=torch.long)
    owner = torch.full((len(rows), length), -1)
    weights = torch.zeros(len(rows), length)
    for index, parts in enumerate(strands):
        at = 0
        for number, part in enumerate(parts):
            span = slice(at, at + len(part.ids))
            ids[index, span] = torch.tensor(part.ids, dtype=torch.long)
            positions[:, index, span] = torch.tensor(part.places, dtype=torch.long).T
            owner[index, span] = number
            weights[index, span] = torch.tensor(part.weights)
            at += len(part.ids)
    return Packed(ids, positions, attention_mask(owner), weights)
