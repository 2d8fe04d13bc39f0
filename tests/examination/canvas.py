"""Draws coloured shapes with PIL: flat or smooth, with or without an outline, on light backgrounds.

Knows pixels; refuses to know questions.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Size = tuple[int, int]

SHADES: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (214, 24, 32), (190, 20, 20)),
    "green": ((0, 160, 0), (20, 130, 50), (46, 175, 60)),
    "blue": ((0, 0, 255), (30, 80, 220), (20, 50, 160)),
    "yellow": ((255, 220, 0), (248, 205, 20), (255, 235, 40)),
    "purple": ((128, 0, 160), (145, 45, 180), (100, 20, 130)),
    "orange": ((255, 140, 0), (245, 125, 15), (255, 150, 30)),
    "black": ((0, 0, 0), (22, 22, 24), (35, 32, 32)),
}
LIGHT: tuple[Rgb, ...] = ((255, 255, 255), (246, 246, 240), (236, 240, 248), (250, 244, 228), (232, 232, 232))
_ENCODING: dict[str, dict[str, int]] = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 92, "subsampling": 0}}
# Corners in units of the radius, y downwards.
_SQUARE = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
_TRIANGLE = ((0.0, -0.9), (1.0, 0.9), (-1.0, 0.9))
_STAR = tuple(
    (reach * math.sin(math.tau * corner / 10), -reach * math.cos(math.tau * corner / 10))
    for corner, reach in enumerate((1.0, 0.4) * 5)
)
CORNERS: dict[str, tuple[tuple[float, float], ...]] = {"square": _SQUARE, "triangle": _TRIANGLE, "star": _STAR}
SHAPES = ("circle", *CORNERS)
COLORS = tuple(SHADES)
_AREA = {"circle": math.pi, "square": 4.0, "triangle": 1.8, "star": 5 * 0.4 * math.sin(math.pi / 5)}


@dataclass(frozen=True)
class Thing:
    """One object: its centre and radius (half the width of its upright box) in pixels, its tilt in degrees."""

    color: str
    shape: str
    x: float
    y: float
    radius: float
    tilt: float = 0.0
    fill: Rgb = (0, 0, 0)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def area(self) -> float:
        """Pixels that it covers."""
        return _AREA[self.shape] * self.radius**2

    @property
    def reach(self) -> float:
        """Pixels from the centre to the farthest corner."""
        corners = CORNERS.get(self.shape, ((1.0, 0.0),))
        return self.radius * max(math.hypot(*corner) for corner in corners)

    def outline(self, scale: float) -> list[tuple[float, float]]:
        """The corners in pixels of a canvas `scale` times as large."""
        cos, sin = math.cos(math.radians(self.tilt)), math.sin(math.radians(self.tilt))
        turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in CORNERS[self.shape]]
        return [((self.x + self.radius * x) * scale, (self.y + self.radius * y) * scale) for x, y in turned]


@dataclass(frozen=True)
class Style:
    """How a picture is painted; two background colours make a gradient. format is PIL's name."""

    background: tuple[Rgb, Rgb]
    smooth: bool
    outlined: bool
    format: str


def random_style(dice: random.Random) -> Style:
    light = (255, 255, 255) if dice.random() < 0.4 else dice.choice(LIGHT)
    other = dice.choice(LIGHT) if dice.random() < 0.15 else light
    smooth = dice.random() < 0.6
    return Style((light, other), smooth, smooth and dice.random() < 0.3, "JPEG" if dice.random() < 0.2 else "PNG")


def paint(size: Size, style: Style, things: Sequence[Thing]) -> bytes:
    """The picture as an encoded file."""
    scale = 1 if not style.smooth else 3 if max(size) <= 480 else 2
    image = background((size[0] * scale, size[1] * scale), style)
    pen = ImageDraw.Draw(image)
    for thing in things:
        _paint_thing(pen, thing, style, scale)
    return encoded(image.reduce(scale), style)


def background(size: Size, style: Style) -> Image.Image:
    first, second = style.background
    plain = Image.new("RGB", size, first)
    if first == second:
        return plain
    return Image.composite(plain, Image.new("RGB", size, second), Image.linear_gradient("L").resize(size))


def encoded(image: Image.Image, style: Style) -> bytes:
    file = io.BytesIO()
    # A JPEG without chroma subsampling, because the examination is about shapes and not about a codec.
    image.save(file, style.format, **_ENCODING[style.format])
    return file.getvalue()


def _paint_thing(pen: ImageDraw.ImageDraw, thing: Thing, style: Style, scale: int) -> None:
    edge = _darker(thing.fill) if style.outlined else None
    width = max(1, round(thing.radius * scale * 0.08))
    if thing.shape == "circle":
        left, top, right, bottom = (
            (middle + side * thing.radius) * scale for side in (-1, 1) for middle in (thing.x, thing.y)
        )
        pen.ellipse((left, top, right, bottom), fill=thing.fill, outline=edge, width=width)
    else:
        pen.polygon(thing.outline(scale), fill=thing.fill, outline=edge, width=width)


def _darker(color: Rgb) -> Rgb:
    red, green, blue = (round(part * 0.65) for part in color)
    return red, green, blue
