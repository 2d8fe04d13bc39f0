"""Random scenes of simple shapes, and how they are drawn.

Knows which shapes and colours exist, how items are placed and what a drawn scene looks like.
It knows nothing of questions, tokens or patches.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Points = tuple[tuple[float, float], ...]
# Centre and half the extent (x, y, radius) in pixels.
Spot = tuple[float, float, float]

SHAPES = ("circle", "square", "triangle", "star")
# First the tone that the name means in PIL or CSS, then others a person would call the same.
COLOURS: dict[str, tuple[RGB, ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 0, 0), (230, 30, 30), (240, 50, 40)),
    "green": ((0, 128, 0), (0, 200, 0), (0, 255, 0), (34, 139, 34), (50, 180, 80), (0, 160, 60)),
    "blue": ((0, 0, 255), (0, 0, 200), (30, 60, 220), (30, 100, 255), (30, 144, 255), (0, 0, 139)),
    "yellow": ((255, 255, 0), (255, 215, 0), (240, 220, 0), (250, 230, 50)),
    "purple": ((128, 0, 128), (160, 32, 240), (148, 0, 211), (138, 43, 226), (120, 40, 160)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 128, 0), (240, 130, 30)),
    "black": ((0, 0, 0), (20, 20, 20), (40, 40, 40)),
}
# Smallest and largest extent of an item as a share of the shorter side, by number of items.
EXTENTS = {1: (0.12, 0.8), 2: (0.12, 0.5), 3: (0.12, 0.4), 4: (0.12, 0.34), 5: (0.11, 0.3)}
# Centres nearer than this share of the width make "left to right" a matter of taste.
MIN_GAP_X = 0.045


@dataclass(frozen=True)
class Item:
    """One shape: truth (shape, colour), placement in picture pixels, and looks."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    fill: RGB | None
    outline: RGB | None
    line_width: int
    points: Points

    def box(self, scale: float) -> tuple[float, float, float, float]:
        """Bounding box (left, top, right, bottom), multiplied by `scale`."""
        low_x, low_y = self.x - self.radius, self.y - self.radius
        return (
            low_x * scale,
            low_y * scale,
            (self.x + self.radius) * scale,
            (self.y + self.radius) * scale,
        )


@dataclass(frozen=True)
class Scene:
    """A picture to draw; `items` run from left to right by their centres."""

    width: int
    height: int
    background: RGB
    antialias: bool
    noise: int
    items: tuple[Item, ...]


def jitter(rng: random.Random, colour: RGB, amount: int) -> RGB:
    """Shifts each channel by up to `amount`, kept inside 0..255."""
    moved = [min(255, max(0, channel + rng.randint(-amount, amount))) for channel in colour]
    return moved[0], moved[1], moved[2]


def turn(points: Points, degrees: float) -> Points:
    """Rotates points about the origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple((x * cos - y * sin, x * sin + y * cos) for x, y in points)


def square_points(rng: random.Random) -> Points:
    """A square in the unit box, now and then tilted a little."""
    # Tilts stay far from 45 degrees, where a square turns into a diamond.
    if rng.random() < 0.85:
        return ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return turn(((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), rng.uniform(-14, 14))


def triangle_points(rng: random.Random) -> Points:
    """A triangle: tall, equilateral, upside down, right-angled or turned."""
    pick = rng.random()
    tall: Points = ((0, -1), (1, 1), (-1, 1))
    even: Points = ((0, -1), (0.866, 0.5), (-0.866, 0.5))
    if pick < 0.35:
        return tall
    if pick < 0.65:
        return even
    if pick < 0.72:
        return ((-1, -1), (1, 1), (-1, 1)) if rng.random() < 0.5 else ((1, -1), (1, 1), (-1, 1))
    if pick < 0.84:
        return turn(rng.choice((tall, even)), 180)
    return turn(even, rng.uniform(0, 360))


def star_points(rng: random.Random) -> Points:
    """A star of five points (seldom six), upright in most cases."""
    count = 5 if rng.random() < 0.93 else 6
    # 0.382 is the regular pentagram; hand-written scripts mostly take 0.4 or 0.5.
    inner = rng.choice((0.382, 0.4, 0.45, 0.5, rng.uniform(0.36, 0.52)))
    start = -90.0 if rng.random() < 0.8 else rng.uniform(0, 360)
    angles = (math.radians(start + 180 * k / count) for k in range(2 * count))
    return tuple(
        (math.cos(a) * (inner if k % 2 else 1), math.sin(a) * (inner if k % 2 else 1)) for k, a in enumerate(angles)
    )


def unit_points(rng: random.Random, shape: str) -> Points:
    """Corner points of `shape` inside the box -1..1; none for a circle."""
    makers = {"square": square_points, "triangle": triangle_points, "star": star_points}
    return makers[shape](rng) if shape in makers else ()


def random_looks(rng: random.Random, fill: RGB, radius: float) -> tuple[RGB | None, RGB | None, int]:
    """Fill, outline colour and outline width in pixels; most items have a fill and no outline."""
    pick = rng.random()
    if pick < 0.62:
        return fill, None, 0
    if pick < 0.68:
        # A bare outline needs some width, or shrinking the picture washes it out.
        return None, fill, round(max(2.0, radius * rng.uniform(0.12, 0.3)))
    # A black line around a black shape is harmless, so the fill is not looked at.
    shade = (fill[0] // 2, fill[1] // 2, fill[2] // 2)
    dark = (0, 0, 0) if rng.random() < 0.7 else (70, 70, 70)
    colour = dark if rng.random() < 0.7 else shade
    return fill, colour, rng.randint(1, max(1, min(8, int(radius / 8))))


def random_kinds(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Shape and colour of every item; often from a small choice, so that kinds repeat."""
    shapes: list[str] = list(SHAPES)
    colours: list[str] = list(COLOURS)
    if count > 1 and rng.random() < 0.3:
        shapes = rng.sample(shapes, rng.choice((1, 2)))
    if count > 1 and rng.random() < 0.3:
        colours = rng.sample(colours, rng.choice((1, 2, 3)))
    return [(rng.choice(shapes), rng.choice(colours)) for _ in range(count)]


def random_item(rng: random.Random, kind: tuple[str, str], spot: Spot) -> Item:
    """An item of a kind with random looks at a given (x, y, radius)."""
    shape, colour = kind
    tones = COLOURS[colour]
    # Users type pure colours, so those get more than their share.
    tone = tones[0] if rng.random() < 0.5 else rng.choice(tones)
    tone = tone if rng.random() < 0.6 else jitter(rng, tone, 14)
    fill, outline, line_width = random_looks(rng, tone, spot[2])
    points = unit_points(rng, shape)
    return Item(shape, colour, *spot, fill, outline, line_width, points)


def overlaps(one: Spot, other: Spot) -> bool:
    """Whether two (x, y, radius) boxes touch or come nearer than a small gap."""
    reach = (one[2] + other[2]) * 1.06
    return abs(one[0] - other[0]) < reach and abs(one[1] - other[1]) < reach


def place(rng: random.Random, width: int, height: int, count: int) -> list[Spot]:
    """Non-overlapping (x, y, radius) spots whose x centres are told apart easily."""
    low, high = EXTENTS[count]
    # The floor follows the area: in a wide strip a share of the height would be a few pixels.
    side, floor, shrink = min(width, height), low * math.sqrt(width * height), 1.0
    while True:
        spots: list[Spot] = []
        for _ in range(count):
            radius = max(floor, side * rng.uniform(low, high) * shrink) / 2
            x = rng.uniform(radius, width - radius)
            spots.append((x, rng.uniform(radius, height - radius), radius))
        pairs = [(a, b) for i, a in enumerate(spots) for b in spots[:i]]
        if all(not overlaps(a, b) and abs(a[0] - b[0]) > MIN_GAP_X * width for a, b in pairs):
            return sorted(spots)
        # Crowded draws fail; smaller items each time end the search soon.
        shrink = max(0.4, shrink * 0.97)


def random_row(rng: random.Random, width: int, height: int, count: int) -> list[Spot]:
    """Spots in a neat row of equal columns, the way a person lays out a test picture."""
    pitch = width / count
    same, level = rng.uniform(0.22, 0.45), rng.random() < 0.7
    spots = []
    for index in range(count):
        share = same if rng.random() < 0.6 else rng.uniform(0.2, 0.46)
        radius = max(min(pitch, height) * share, 0.05 * math.sqrt(width * height))
        radius = min(radius, 0.49 * pitch, 0.49 * height)
        y = height / 2 if level else rng.uniform(radius, height - radius)
        spots.append((pitch * (index + 0.5), y, radius))
    return spots


def random_background(rng: random.Random) -> RGB:
    """White in every other case, else a light grey or tint."""
    pick = rng.random()
    if pick < 0.5:
        return (255, 255, 255)
    if pick < 0.7:
        grey = rng.randint(205, 254)
        return (grey, grey, grey)
    return (rng.randint(205, 255), rng.randint(205, 255), rng.randint(205, 255))


def random_scene(rng: random.Random, width: int, height: int, count: int) -> Scene:
    """A scene of `count` items (1 to 5) on a picture of the given size."""
    # Most test pictures in the world are neat rows.
    neat = rng.random() < 0.3
    spots = (random_row if neat else place)(rng, width, height, count)
    kinds = random_kinds(rng, count)
    items = tuple(random_item(rng, *pair) for pair in zip(kinds, spots, strict=True))
    noise = rng.randint(2, 8) if rng.random() < 0.06 else 0
    # Large pictures get smooth enough when they are shrunk, and take four times as long.
    smooth = rng.random() < 0.35 and width * height < 400_000
    return Scene(width, height, random_background(rng), smooth, noise, items)


def draw_item(pen: ImageDraw.ImageDraw, item: Item, scale: int) -> None:
    """Draws one item at `scale` times its size."""
    width = item.line_width * scale
    if item.shape == "circle":
        pen.ellipse(item.box(scale), fill=item.fill, outline=item.outline, width=width)
        return
    corners = [((item.x + item.radius * px) * scale, (item.y + item.radius * py) * scale) for px, py in item.points]
    pen.polygon(corners, fill=item.fill, outline=item.outline, width=max(1, width))


def add_noise(picture: Image.Image, amount: int, seed: int) -> Image.Image:
    """Adds uniform grain of up to `amount` to every channel."""
    values = np.asarray(picture, dtype=np.int16)
    grain = np.random.default_rng(seed).integers(-amount, amount + 1, values.shape)
    return Image.fromarray(np.clip(values + grain, 0, 255).astype(np.uint8))


def draw(scene: Scene) -> Image.Image:
    """Draws a scene as an RGB picture of its own size."""
    scale = 2 if scene.antialias else 1
    size = (scene.width * scale, scene.height * scale)
    picture = Image.new("RGB", size, scene.background)
    pen = ImageDraw.Draw(picture)
    for item in scene.items:
        draw_item(pen, item, scale)
    # Drawing large and averaging down is what most antialiasing amounts to.
    if scale > 1:
        picture = picture.reduce(scale)
    if scene.noise:
        # The grain follows from the scene, so that drawing twice gives the same picture.
        picture = add_noise(picture, scene.noise, int(scene.items[0].x * 1000))
    return picture
