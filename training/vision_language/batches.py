"""Random batches of the second phase: pictures with questions, and conversations without.

Every batch has one cell grid, so that its pictures go through the vision tower together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.vision_language.chat import conversation, small_talk
from training.vision_language.intents import SYSTEM
from training.vision_language.packing import (
    NEXT_TURN,
    Encode,
    Packed,
    Row,
    Strand,
    add_turns,
    branch,
    pack,
    start_prefix,
)
from training.vision_language.pixels import PictureSizes, Size
from training.vision_language.questions import Turn, ask, ask_pair, caption
from training.vision_language.scenes import Scene
from training.vision_language.warmup import random_scenes

# Odds of the four kinds of batch, and of one, two and three items in a scene.
KINDS = {"picture": 48, "after": 8, "two": 8, "text": 36}
ITEMS = (5, 3, 3)
# Length of a row: a few questions behind a picture, or as many conversations.
ROW_TOKENS = {"picture": 192, "two": 224, "text": 240}


@dataclass
class Batch:
    """Rows to learn, and the scenes of all their pictures in order of appearance."""

    kind: str
    packed: Packed
    scenes: list[Scene]
    grid: Size


def system_or_none(rng: random.Random) -> str | None:
    """A system message in one row of four."""
    return rng.choice(SYSTEM) if rng.random() < 0.25 else None


def turns_about(rng: random.Random, scene: Scene) -> list[Turn]:
    """One question in most cases, else two, the second perhaps small talk."""
    turns = [ask(rng, scene)]
    if rng.random() < 0.15:
        turns.append(ask(rng, scene) if rng.random() < 0.7 else small_talk(rng))
    return turns


def open_prefix(rng: random.Random, encode: Encode) -> Strand:
    """A prefix, now and then with a turn of small talk before the picture."""
    prefix = start_prefix(encode, system_or_none(rng))
    if rng.random() < 0.08:
        add_turns(encode, prefix, [small_talk(rng)])
        prefix.add_text(encode(NEXT_TURN))
    return prefix


def fill(row: Row, kind: str, draw: Callable[[], Strand]) -> Row:
    """Adds branches up to the row length of `kind`, and one at least.

    Rows of one length matter: padding to the longest wasted up to a third of the work.
    """
    left = ROW_TOKENS[kind] - sum(len(strand.ids) for strand in (row.prefix, *row.branches))
    while True:
        strand = draw()
        left -= len(strand.ids)
        if left < 0 and row.branches:
            return row
        row.branches.append(strand)


def picture_row(rng: random.Random, encode: Encode, grid: Size, scene: Scene) -> Row:
    """Picture first, then branches with questions; the first asks for the caption."""
    prefix = open_prefix(rng, encode)
    prefix.add_picture(grid)
    # One caption in every row: it is asked most and hardest to get wholly right.
    row = Row(prefix, [branch(encode, prefix, [caption(rng, scene)])])
    return fill(row, "picture", lambda: branch(encode, prefix, turns_about(rng, scene)))


def after_row(rng: random.Random, encode: Encode, grid: Size, scene: Scene) -> Row:
    """The question first and the picture behind it; nothing can be shared then."""
    prefix = open_prefix(rng, encode)
    return Row(prefix, [branch(encode, prefix, turns_about(rng, scene), after=grid)])


def two_row(rng: random.Random, encode: Encode, grid: Size, pair: list[Scene]) -> Row:
    """Two pictures, either in one message or in two turns with questions about the newer."""
    prefix = start_prefix(encode, system_or_none(rng))
    prefix.add_picture(grid)
    if rng.random() < 0.5:
        prefix.add_picture(grid)
        return fill(Row(prefix), "two", lambda: branch(encode, prefix, [ask_pair(rng, *pair)]))
    add_turns(encode, prefix, [ask(rng, pair[0])])
    prefix.add_text(encode(NEXT_TURN))
    prefix.add_picture(grid)
    return fill(Row(prefix), "two", lambda: branch(encode, prefix, [ask(rng, pair[1])]))


def text_row(rng: random.Random, encode: Encode) -> Row:
    """Conversations without pictures."""
    prefix = start_prefix(encode, system_or_none(rng))
    return fill(Row(prefix), "text", lambda: branch(encode, prefix, conversation(rng)))


def random_batch(rng: random.Random, encode: Encode, sizes: PictureSizes, size: int) -> Batch:
    """A batch of random kind with about the work of `size` one-picture rows."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    grid = sizes.grid(rng)
    if kind == "text":
        return Batch(kind, pack([text_row(rng, encode) for _ in range(size)]), [], grid)
    scenes = random_scenes(rng, sizes, grid, size, ITEMS)
    # Half the rows with two pictures each keep the vision tower's work the same.
    if kind == "two":
        pairs = [scenes[k : k + 2] for k in range(0, size, 2)]
        rows = [two_row(rng, encode, grid, pair) for pair in pairs]
        return Batch(kind, pack(rows), scenes, grid)
    make: Callable[[random.Random, Encode, Size, Scene], Row]
    make = picture_row if kind == "picture" else after_row
    return Batch(kind, pack([make(rng, encode, grid, scene) for scene in scenes]), scenes, grid)
