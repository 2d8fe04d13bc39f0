"""Random batches of the second phase: pictures with questions, and conversations without.

The first pictures of all rows share one cell grid, and so do the second ones, so that they go
through the vision tower together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from training.vision_language.answers import Turn
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
from training.vision_language.pairs import ask_pair
from training.vision_language.phrases import expand
from training.vision_language.pixels import Picture, PictureSizes, Size
from training.vision_language.questions import ask, describe
from training.vision_language.tools import Offer, tools_text
from training.vision_language.warmup import random_pictures

Pair = tuple[Picture, Picture]
# Odds of the kinds of batch, and of a printed text and one to five items in a picture.
KINDS = {"picture": 30, "print": 20, "after": 2, "two": 32, "text": 8, "tools": 5, "offered": 3}
CONTENTS = (2, 3, 4, 6, 4, 3)
PRINTS_ONLY = (1, 0, 0, 0, 0, 0)
# In two pictures counts must often be equal, and printed texts are not compared.
PAIR_CONTENTS = (1, 4, 5, 4, 1, 1)
# Length of a row: some questions behind a picture, or as many conversations.
ROW_TOKENS = {"picture": 176, "print": 0, "two": 224, "text": 176, "tools": 360, "offered": 360}
# Odds of no system message and of the three forms of answer.
STYLE_ODDS = {"": 55, "brief": 15, "full": 15, "json": 15}


@dataclass
class Batch:
    """Rows to learn; `pictures` holds the first of every row, then the second, with their grids."""

    kind: str
    packed: Packed
    pictures: list[tuple[Size, list[Picture]]]


def random_system(rng: random.Random) -> tuple[str, str]:
    """A system message ("" for none) and the form of answer that it asks for."""
    style = rng.choices(list(STYLE_ODDS), list(STYLE_ODDS.values()))[0]
    if not style:
        return "", "brief"
    text = expand(rng, rng.choice(SYSTEM[style]))
    if style != "brief" and rng.random() < 0.2:
        text = f"You are a helpful assistant. {text}"
    return text, style


def turns_about(rng: random.Random, picture: Picture) -> list[Turn]:
    """One question in most cases, else up to three, the later ones now and then small talk."""
    turns = [ask(rng, picture)]
    for _ in range(rng.choices((0, 1, 2), (13, 4, 3))[0]):
        turns.append(ask(rng, picture) if rng.random() < 0.85 else small_talk(rng))
    return turns


def open_prefix(rng: random.Random, encode: Encode) -> tuple[Strand, str]:
    """A prefix, now and then with a turn of small talk before the picture, and its style."""
    system, style = random_system(rng)
    prefix = start_prefix(encode, system)
    if rng.random() < 0.06:
        add_turns(encode, prefix, [small_talk(rng)], style)
        prefix.add_text(encode(NEXT_TURN))
    return prefix, style


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


def picture_row(rng: random.Random, encode: Encode, grid: Size, picture: Picture) -> Row:
    """Picture first, then branches with questions; the first asks for the caption."""
    prefix, style = open_prefix(rng, encode)
    prefix.add_picture(grid)
    # One caption in every row: it is asked most and hardest to get wholly right.
    row = Row(prefix, [branch(encode, prefix, [describe(rng, picture)], style)])
    return fill(row, "picture", lambda: branch(encode, prefix, turns_about(rng, picture), style))


def print_row(rng: random.Random, encode: Encode, grid: Size, picture: Picture) -> Row:
    """A printed text and two questions: there is little to ask, and many to be read."""
    system, style = random_system(rng)
    prefix = start_prefix(encode, system)
    prefix.add_picture(grid)
    return Row(prefix, [branch(encode, prefix, [ask(rng, picture)], style) for _ in range(2)])


def after_row(rng: random.Random, encode: Encode, grid: Size, picture: Picture) -> Row:
    """The question first and the picture behind it; nothing can be shared then."""
    prefix, style = open_prefix(rng, encode)
    return Row(prefix, [branch(encode, prefix, turns_about(rng, picture), style, (grid,))])


def offered_row(rng: random.Random, encode: Encode, grid: Size, picture: Picture) -> Row:
    """A picture and tools that nothing asked about it needs."""
    offer = Offer(rng, rng.choices((1, 2, 3), (5, 3, 2))[0])
    prefix = start_prefix(encode, tools_text(offer.schemas))
    prefix.add_picture(grid)
    return fill(Row(prefix), "offered", lambda: branch(encode, prefix, [ask(rng, picture)]))


def two_row(rng: random.Random, encode: Encode, grids: tuple[Size, Size], pair: Pair) -> Row:
    """Two pictures: in one message, in two turns, or behind the question."""
    system, style = random_system(rng)
    prefix = start_prefix(encode, system)

    def compared(after: tuple[Size, ...] = ()) -> Strand:
        return branch(encode, prefix, [ask_pair(rng, *pair)], style, after)

    pick = rng.random()
    if pick < 0.08:
        return Row(prefix, [compared(grids)])
    prefix.add_picture(grids[0])
    if pick < 0.8:
        prefix.add_picture(grids[1])
        return fill(Row(prefix), "two", compared)
    add_turns(encode, prefix, [ask(rng, pair[0])], style)
    prefix.add_text(encode(NEXT_TURN))
    prefix.add_picture(grids[1])

    def newer() -> Strand:
        turn = ask(rng, pair[1]) if rng.random() < 0.6 else ask_pair(rng, *pair)
        return branch(encode, prefix, [turn], style)

    return fill(Row(prefix), "two", newer)


def text_row(rng: random.Random, encode: Encode) -> Row:
    """Conversations without pictures."""
    system, style = random_system(rng)
    prefix = start_prefix(encode, system)
    return fill(Row(prefix), "text", lambda: branch(encode, prefix, conversation(rng), style))


def tools_row(rng: random.Random, encode: Encode) -> Row:
    """One to three tools on offer, and conversations that use them or do not."""
    offer = Offer(rng, rng.choices((1, 2, 3), (5, 3, 2))[0])
    system = expand(rng, rng.choice(SYSTEM["brief"])) + "\n\n" if rng.random() < 0.3 else ""
    prefix = start_prefix(encode, system + tools_text(offer.schemas))

    def draw() -> Strand:
        pick = rng.random()
        turns = offer.use(rng) if pick < 0.64 else [offer.lacking(rng)]
        if pick > 0.84:
            turns = [small_talk(rng)]
        if rng.random() < 0.1:
            turns += offer.use(rng)
        # With a calculator every sum is a call; small talk would answer some itself.
        kinds = {turn.kind for turn in turns}
        calls = "calculate" in offer.names and "sum" in kinds
        return draw() if calls or ("without tool" in kinds and pick > 0.84) else branch(encode, prefix, turns)

    return fill(Row(prefix), "tools", draw)


def two_batch(rng: random.Random, encode: Encode, sizes: PictureSizes, count: int) -> Batch:
    """Rows with two pictures each, in half of the batches of two grids."""
    one = sizes.grid(rng)
    grids = (one, one if rng.random() < 0.5 else sizes.grid(rng))
    sides = [random_pictures(rng, sizes, grid, count, PAIR_CONTENTS) for grid in grids]
    rows = [two_row(rng, encode, grids, pair) for pair in zip(*sides, strict=True)]
    return Batch("two", pack(rows), list(zip(grids, sides, strict=True)))


def random_batch(rng: random.Random, encode: Encode, sizes: PictureSizes, size: int) -> Batch:
    """A batch of random kind with about the work of `size` one-picture rows."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "text":
        return Batch(kind, pack([text_row(rng, encode) for _ in range(size)]), [])
    if kind == "tools":
        return Batch(kind, pack([tools_row(rng, encode) for _ in range(size // 2)]), [])
    if kind == "two":
        # Fewer rows, since each has two pictures and is longer.
        return two_batch(rng, encode, sizes, size * 5 // 8)
    grid = sizes.grid(rng)
    make: Callable[[random.Random, Encode, Size, Picture], Row]
    make = {"picture": picture_row, "print": print_row, "after": after_row, "offered": offered_row}[kind]
    # Short rows leave room for more of them.
    count, odds = {"print": (size * 7 // 4, PRINTS_ONLY), "offered": (size // 2, CONTENTS)}.get(kind, (size, CONTENTS))
    pictures = random_pictures(rng, sizes, grid, count, odds)
    packed = pack([make(rng, encode, grid, picture) for picture in pictures])
    return Batch(kind, packed, [(grid, pictures)])
