"""Pictures as a user would draw them in five lines of PIL, for the evaluation only.

Shares no drawing code with scenes.py, so that the figures do not just repeat its habits.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

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
SIZES = ((224, 224), (448, 448), (640, 480), (320, 240), (300, 300), (480, 640), (256, 256))


def star(x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of an upright star of five points."""
    angles = [math.pi * k / 5 - math.pi / 2 for k in range(10)]
    arms = [r if k % 2 == 0 else r * 0.4 for k in range(10)]
    return [(x + a * math.cos(t), y + a * math.sin(t)) for t, a in zip(angles, arms, strict=True)]


def draw_kind(
    pen: ImageDraw.ImageDraw, kind: str, spot: tuple[float, float, float], fill: Paint, line: Paint
) -> None:
    """Draws one shape at (x, y, half its extent)."""
    x, y, r = spot
    if kind == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill=fill, outline=line)
    elif kind == "square":
        pen.rectangle([x - r, y - r, x + r, y + r], fill=fill, outline=line)
    else:
        corners = [(x, y - r), (x - r, y + r), (x + r, y + r)]
        pen.polygon(corners if kind == "triangle" else star(x, y, r), fill=fill, outline=line)


def plain_picture(rng: random.Random, count: int) -> tuple[Image.Image, list[str]]:
    """A picture of `count` shapes side by side and their names from left to right."""
    width, height = rng.choice(SIZES)
    picture = Image.new("RGB", (width, height), rng.choice(BACKGROUNDS))
    pen, pitch, names = ImageDraw.Draw(picture), width / count, []
    for index in range(count):
        colour, kind = rng.choice(list(PURE)), rng.choice(KINDS)
        low, high = (0.15, 0.7) if count == 1 else (0.5, 0.85)
        r = min(pitch, height) * rng.uniform(low, high) / 2
        x = pitch * index + (rng.uniform(r, pitch - r) if count == 1 else pitch / 2)
        y = rng.uniform(r, height - r)
        line = rng.choice((None, None, "black"))
        draw_kind(pen, kind, (x, y, r), rng.choice(PURE[colour]), line)
        names.append(f"{colour} {kind}")
    return picture, names
