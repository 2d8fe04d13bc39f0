"""Pictures of coloured shapes, drawn by the plainest means; the training draws its own, by other code."""

from __future__ import annotations

import base64
import io
import random

from PIL import Image, ImageDraw

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 220, 0),
    "purple": (128, 0, 160),
    "orange": (255, 140, 0),
}
SHAPES = ("circle", "square", "triangle")


def draw(*objects: tuple[str, str], size: tuple[int, int] = (448, 336)) -> bytes:
    """A PNG of (color, shape) pairs side by side on white."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    width = size[0] / len(objects)
    radius = min(width, size[1]) * 0.32
    for place, (color, shape) in enumerate(objects):
        _draw_shape(pen, shape, COLORS[color], (width * (place + 0.5), size[1] / 2), radius)
    return _png(image)


def draw_somewhere(color: str, shape: str, seed: int) -> bytes:
    """A PNG of one object of random size and place."""
    dice = random.Random(seed)
    size = dice.choice([(224, 224), (448, 336), (320, 480), (640, 480)])
    image = Image.new("RGB", size, "white")
    radius = min(size) * dice.uniform(0.12, 0.3)
    center = (dice.uniform(radius, size[0] - radius), dice.uniform(radius, size[1] - radius))
    _draw_shape(ImageDraw.Draw(image), shape, COLORS[color], center, radius)
    return _png(image)


def part(png: bytes) -> dict[str, object]:
    """The picture as an `image_url` part of a chat message."""
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, color: tuple[int, int, int], center: tuple[float, float], radius: float
) -> None:
    x, y = center
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill=color)
    elif shape == "square":
        pen.rectangle(box, fill=color)
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=color)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
