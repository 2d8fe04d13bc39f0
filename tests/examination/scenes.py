"""Scenes of one to five objects with their truth: where everything is, in rows, on stairs and scattered.

What people could argue about is never made: objects do not touch, and their centres differ clearly from left to right.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tests.examination.canvas import COLORS, SHADES, SHAPES, Size, Style, Thing, paint, random_style

# The smallest radius, and the smallest step from left to right, as shares of the picture.
MIN_RADIUS = 0.065
MIN_STEP = 0.1
MIN_SIDE, MAX_SIDE, MAX_ASPECT = 96, 1600, 2.5
_NEAR_BORDER = 0.06

Spot = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A picture that is drawn when asked for; `things` are in order from left to right, `size` is in pixels."""

    size: Size
    style: Style
    things: tuple[Thing, ...]

    def picture(self) -> bytes:
        return paint(self.size, self.style, self.things)

    def count(self, color: str | None = None, shape: str | None = None) -> int:
        """How many objects have the colour and the shape; None stands for any."""
        return sum(color in (None, thing.color) and shape in (None, thing.shape) for thing in self.things)

    def unique(self) -> list[Thing]:
        """Objects that their colour and shape name without doubt."""
        return [thing for thing in self.things if self.count(thing.color, thing.shape) == 1]

    def place(self, thing: Thing) -> str | None:
        """One of nine places, by thirds; None where a border is too near."""
        across, down = _third(thing.x / self.size[0]), _third(thing.y / self.size[1])
        if across is None or down is None:
            return None
        words = (("top", "", "bottom")[down], ("left", "", "right")[across])
        return " ".join(word for word in words if word) or "center"


def draw_scene(dice: random.Random, num_things: int) -> Scene:
    """A random scene in a random style."""
    # Chosen once, or the layouts that fail more often would be rarer.
    layout = dice.choice(_LAYOUTS)
    while True:
        size = random_size(dice)
        tilted = dice.random() < 0.3
        spots = layout(dice, num_things, size)
        things = tuple(sorted((_thing(dice, spot, tilted) for spot in spots), key=lambda thing: thing.x))
        if len(things) == num_things and _is_clear(size, things):
            return Scene(size, random_style(dice), things)


def scenes(dice: random.Random, counts: Sequence[int] = (1, 2, 2, 3, 3, 3, 4, 4, 5)) -> Iterator[Scene]:
    """Endlessly many, each with one of `counts` objects."""
    while True:
        scene = draw_scene(dice, dice.choice(counts))
        # Often two objects share a colour or a shape, or counting would be counting to one.
        yield _with_twins(dice, scene) if dice.random() < 0.4 else scene


def random_size(dice: random.Random, max_aspect: float = MAX_ASPECT) -> Size:
    """Mostly middle-sized; sides from MIN_SIDE to MAX_SIDE."""
    low, high = dice.choices(((110, 220), (220, 640), (640, 1100)), (2, 7, 1))[0]
    side, aspect = dice.uniform(low, high), max_aspect ** dice.uniform(-1, 1)
    if dice.random() < 0.2:
        aspect = 1.0
    width, height = round(side * aspect**0.5), round(side / aspect**0.5)
    return min(max(width, MIN_SIDE), MAX_SIDE), min(max(height, MIN_SIDE), MAX_SIDE)


def differ_in_size(one: Thing, other: Thing) -> bool:
    """By a quarter or more, whether one looks at widths or at areas, and both ways agree on the bigger one."""
    widths, areas = one.radius / other.radius, math.sqrt(one.area / other.area)
    return min(widths, areas) >= 1.25 or max(widths, areas) <= 0.8


def _row(dice: random.Random, number: int, size: Size) -> list[Spot]:
    """Side by side and equally large, as a tidy person draws."""
    cell = size[0] / number
    radius = min(cell, size[1]) * dice.uniform(0.22, 0.38)
    return [(cell * (place + 0.5), size[1] / 2, radius) for place in range(number)]


def _stairs(dice: random.Random, number: int, size: Size) -> list[Spot]:
    """Going down or up from left to right, of different sizes."""
    steps = [(place + 0.5) / number for place in range(number)]
    down = dice.random() < 0.5
    room = min(size) / number
    return [
        (size[0] * step, size[1] * (step if down else 1 - step), min(room * dice.uniform(0.35, 0.6), min(size) * 0.35))
        for step in steps
    ]


def _scattered(dice: random.Random, number: int, size: Size) -> list[Spot]:
    """Anywhere, large and small; each takes the first free place it finds."""
    largest = min(size) * min(0.4, 0.5 / number**0.5)
    spots: list[Spot] = []
    for _ in range(number * 20):
        radius = largest * dice.uniform(0.35, 1)
        spot = (dice.uniform(radius, size[0] - radius), dice.uniform(radius, size[1] - radius), radius)
        if len(spots) < number and all(_is_free(spot, other, size) for other in spots):
            spots.append(spot)
    return spots


def _is_free(spot: Spot, other: Spot, size: Size) -> bool:
    """Whether two squares would have room for each other; the exact check comes later."""
    apart = math.hypot(spot[0] - other[0], spot[1] - other[1])
    return apart > 1.5 * (spot[2] + other[2]) and abs(spot[0] - other[0]) >= MIN_STEP * size[0]


_LAYOUTS: tuple[Callable[[random.Random, int, Size], list[Spot]], ...] = (_row, _stairs, _scattered, _scattered)


def _thing(dice: random.Random, spot: Spot, tilted: bool) -> Thing:
    color = dice.choice(COLORS)
    tilt = dice.uniform(-15, 15) if tilted else 0.0
    return Thing(color, dice.choice(SHAPES), *spot, tilt, dice.choice(SHADES[color]))


def _with_twins(dice: random.Random, scene: Scene) -> Scene:
    """The same places, where an object takes the colour, the shape or both of another one."""
    things = list(scene.things)
    model, place = dice.choice(things), dice.randrange(len(things))
    looks = dice.choice(({"color": model.color, "fill": model.fill}, {"shape": model.shape}))
    both = {"color": model.color, "fill": model.fill, "shape": model.shape}
    things[place] = replace(things[place], **(both if dice.random() < 0.3 else looks))
    twins = replace(scene, things=tuple(things))
    return twins if _is_clear(twins.size, twins.things) else scene


def _is_clear(size: Size, things: Sequence[Thing]) -> bool:
    smallest = MIN_RADIUS * (size[0] * size[1]) ** 0.5
    return (
        all(thing.radius >= smallest and _is_inside(thing, size) for thing in things)
        and all(right.x - left.x >= MIN_STEP * size[0] for left, right in pairwise(things))
        and not any(_touch(one, other) for place, one in enumerate(things) for other in things[:place])
    )


def _is_inside(thing: Thing, size: Size) -> bool:
    reach = thing.reach + 2
    return reach <= thing.x <= size[0] - reach and reach <= thing.y <= size[1] - reach


def _touch(one: Thing, other: Thing) -> bool:
    distance = math.hypot(one.x - other.x, one.y - other.y)
    return distance < (one.reach + other.reach) * 1.05 + 2


def _third(share: float) -> int | None:
    near = min(abs(share - border) for border in (1 / 3, 2 / 3)) < _NEAR_BORDER
    return None if near else int(share * 3)
