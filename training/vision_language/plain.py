"""Pictures as a user would draw them in five lines of PIL, for the evaluation only.

Shares no drawing code with scenes.py, so that the figures do not just repeat its habits.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw, ImageFont

Paint = str | tuple[int, int, int] | None
# Names go through PIL's own colour table.
PURE: dict[str, tuple[Paint, ...]] = {
    "red": ("red", (255, 0, 0), (220, 0, 0)),
    "green": ("green", (0, 128, 0), (0, 200, 0)),
    "blue": ("blue", (0, 0, 255), (0, 0, 200)),
    "yellow": ("yellow", (255, 255, 0), (255, 220, 0)),
    "purple": ("purple", (128, 0, 128), (150, 50, 200)),
    "orange": ("orange", (255, 165, 0), (255, 140, 0)),
    "black": ("black", (0, 0, 0), (10, 10, 10)),
}
KINDS = ("circle", "square", "triangle", "star")
BACKGROUNDS: tuple[str | tuple[int, int, int], ...] = (
    "white",
    "white",
    "white",
    (240, 240, 240),
    (250, 245, 230),
    "lightgray",
)
SIZES = ((224, 224), (448, 448), (640, 480), (320, 240), (300, 300), (480, 640), (256, 256), (1024, 768), (600, 300))


def star(x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of an upright star of five points."""
    angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    arms = [r if k % 2 == 0 else r * 0.4 for k in range(10)]
    return [(x + a * math.cos(t), y + a * math.sin(t)) for t, a in zip(angles, arms, strict=True)]


def draw_kind(pen: ImageDraw.ImageDraw, kind: str, spot: tuple[float, float, float], fill: Paint, line: Paint) -> None:
    """Draws one shape at (x, y, half its extent)."""
    x, y, r = spot
    if kind == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill=fill, outline=line)
    elif kind == "square":
        pen.rectangle([x - r, y - r, x + r, y + r], fill=fill, outline=line)
    else:
        corners = [(x, y - r), (x - r, y + r), (x + r, y + r)]
        pen.polygon(corners if kind == "triangle" else star(x, y, r), fill=fill, outline=line)


def columns(rng: random.Random, size: tuple[int, int], count: int) -> list[tuple[float, float, float]]:
    """Spots (x, y, r) one beside the other, at any height."""
    pitch, spots = size[0] / count, []
    for index in range(count):
        low, high = (0.15, 0.7) if count == 1 else (0.45, 0.85)
        r = min(pitch, size[1]) * rng.uniform(low, high) / 2
        x = pitch * index + (rng.uniform(r, pitch - r) if count == 1 else pitch / 2)
        spots.append((x, rng.uniform(r, size[1] - r), r))
    return spots


def scattered(rng: random.Random, size: tuple[int, int], count: int) -> list[tuple[float, float, float]]:
    """Spots (x, y, r) anywhere, apart from each other, in order of x."""
    side = min(size)
    while True:
        spots: list[tuple[float, float, float]] = []
        for _ in range(count):
            r = side * rng.uniform(0.07, 0.34 / count**0.5)
            spots.append((rng.uniform(r, size[0] - r), rng.uniform(r, size[1] - r), r))
        pairs = [(p, q) for k, p in enumerate(spots) for q in spots[:k]]
        apart = all(math.dist(p[:2], q[:2]) > 1.5 * (p[2] + q[2]) for p, q in pairs)
        if apart and all(abs(p[0] - q[0]) > 0.06 * size[0] for p, q in pairs):
            return sorted(spots)


def plain_picture(rng: random.Random, count: int) -> tuple[Image.Image, list[str]]:
    """A picture of `count` shapes and their names from left to right."""
    size = rng.choice(SIZES)
    picture = Image.new("RGB", size, rng.choice(BACKGROUNDS))
    pen, names = ImageDraw.Draw(picture), []
    for spot in rng.choice((columns, scattered))(rng, size, count):
        colour, kind = rng.choice(list(PURE)), rng.choice(KINDS)
        line = rng.choice((None, None, "black"))
        draw_kind(pen, kind, spot, rng.choice(PURE[colour]), line)
        names.append(f"{colour} {kind}")
    return picture, names


def plain_print(rng: random.Random, text: str, font: str) -> Image.Image:
    """A picture of a text, upright or turned a little."""
    size = rng.choice(SIZES)
    background = rng.choice(BACKGROUNDS)
    picture = Image.new("RGB", size, background)
    points, share = size[1], rng.uniform(0.35, 0.85)
    while ImageFont.truetype(font, points).getlength(text) > share * size[0] or points > 0.6 * size[1]:
        points -= 2
    fill = rng.choice(("black", "black", "red", "blue", "green", "purple"))
    middle = (size[0] / 2, size[1] / 2)
    ImageDraw.Draw(picture).text(middle, text, fill, ImageFont.truetype(font, points), "mm")
    turned = rng.choice((0.0, 0.0, rng.uniform(-15, 15)))
    return picture.rotate(turned, Image.Resampling.BICUBIC, fillcolor=background)
