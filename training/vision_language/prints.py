"""Printed numbers and words: which fonts there are, how a text is placed, and its drawing.

Knows nothing of questions, tokens or patches. Works with the fonts it finds; the more families are
installed the better the model reads. Families named in HELD_OUT never appear in training.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from training.vision_language.intents import PRINTED, WORDS
from training.vision_language.scenes import COLOURS, RGB, jitter, random_background

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONTS = Path("/usr/share/fonts")
FAMILIES = (
    "DejaVu", "Liberation", "FreeSans", "FreeSerif", "FreeMono", "Lato-", "OpenSans", "NotoSans-",
    "NotoSerif-", "NotoMono", "NotoSansMono", "ComicNeue", "Cantarell", "Inconsolata", "Carlito",
    "Caladea", "Roboto",
)  # fmt: skip
# Kept for the evaluation.
HELD_OUT = ("Roboto", "Caladea")
UNREADABLE = ("Hairline", "Thin", "ExtraLight", "MathTeX")
# Pillow's own font, named by an empty path; scripts that name no font get it.
DEFAULT = ""


@dataclass(frozen=True)
class Print:
    """A picture of one text; `box` runs over the unturned text around the centre (x, y)."""

    width: int
    height: int
    background: RGB
    text: str
    colour: str
    fill: RGB
    font: str
    points: int
    x: float
    y: float
    angle: float

    @property
    def answer(self) -> str:
        """What is printed, in lower case."""
        return self.text.lower()


@lru_cache
def found_fonts(held_out: bool = False) -> tuple[str, ...]:
    """Paths of the fonts to train with, or of those kept for the evaluation."""
    paths = [*FONTS.rglob("*.ttf"), *FONTS.rglob("*.otf")]
    named = [p for p in paths if p.name.startswith(FAMILIES) and not any(u in p.name for u in UNREADABLE)]
    kept = sorted(str(p) for p in named if p.name.startswith(HELD_OUT) == held_out)
    return tuple(kept) or (DEFAULT,)


@lru_cache
def by_family(held_out: bool) -> tuple[tuple[str, ...], ...]:
    """The fonts grouped by the start of their names, so that rich families do not rule."""
    groups: dict[str, list[str]] = {}
    for path in found_fonts(held_out):
        groups.setdefault(Path(path).name[:9], []).append(path)
    return tuple(tuple(group) for group in groups.values())


@lru_cache(maxsize=512)
def load_font(path: str, points: int) -> Font:
    """A font by path and size in pixels."""
    return ImageFont.truetype(path, points) if path else ImageFont.load_default(points)


def random_font(rng: random.Random, held_out: bool = False) -> str:
    """Half of the time a font that most machines have."""
    if not held_out and rng.random() < 0.12:
        return DEFAULT
    common = [p for p in found_fonts(held_out) if Path(p).name.startswith(("DejaVu", "Liberation"))]
    if common and rng.random() < 0.45:
        return rng.choice(common)
    return rng.choice(rng.choice(by_family(held_out)))


def random_text(rng: random.Random) -> str:
    """A number of one to four digits, or a word in small or capital letters."""
    if rng.random() < 0.55:
        return "".join(rng.choice("0123456789") for _ in range(rng.choices((1, 2, 3, 4), (2, 4, 6, 7))[0]))
    word = rng.choice(PRINTED)
    # Other words now and then: reading letters, not recognising outlines.
    if rng.random() < 0.15:
        word = rng.choice([word for word in WORDS if 3 <= len(word) <= 6 and word.isalpha()])
    return rng.choices((word, word.upper(), word.capitalize()), (6, 4, 1))[0]


def extent(text: str, font: str, points: int) -> tuple[float, float]:
    """Width and height of a text in pixels."""
    left, top, right, bottom = load_font(font, points).getbbox(text)
    return right - left, bottom - top


def fitting_points(rng: random.Random, text: str, font: str, room: tuple[float, float], angle: float) -> int:
    """A font size at which the turned text fits into `room` (width, height)."""
    width, height = extent(text, font, 100)
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    most = min(room[0] / (width * cos + height * sin), room[1] / (width * sin + height * cos))
    # Letters below a twelfth of the side are a few pixels wide after shrinking.
    least = min(most, 0.09 * math.sqrt(room[0] * room[1]) / max(1.0, height) * 1.2)
    return max(7, int(100 * rng.uniform(least, most)))


def random_print(rng: random.Random, width: int, height: int, held_out: bool = False) -> Print:
    """A printed text on a picture of the given size."""
    text, font = random_text(rng), random_font(rng, held_out)
    angle = 0.0 if rng.random() < 0.5 else rng.uniform(-20, 20)
    points = fitting_points(rng, text, font, (0.94 * width, 0.9 * height), angle)
    wide, high = extent(text, font, points)
    turn = math.radians(angle)
    half_x = (wide * abs(math.cos(turn)) + high * abs(math.sin(turn))) / 2
    half_y = (wide * abs(math.sin(turn)) + high * abs(math.cos(turn))) / 2
    x, y = width / 2, height / 2
    if rng.random() < 0.6:
        x = rng.uniform(min(half_x, x), max(width - half_x, x))
        y = rng.uniform(min(half_y, y), max(height - half_y, y))
    colour = "black" if rng.random() < 0.35 else rng.choice(list(COLOURS))
    fill = jitter(rng, rng.choice(COLOURS[colour]), 10)
    return Print(width, height, random_background(rng), text, colour, fill, font, points, x, y, angle)


def draw_print(scene: Print) -> Image.Image:
    """Draws a printed text as an RGB picture."""
    picture = Image.new("RGB", (scene.width, scene.height), scene.background)
    font = load_font(scene.font, scene.points)
    left, top, right, bottom = font.getbbox(scene.text)
    mask = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4), 0)
    ImageDraw.Draw(mask).text((2 - left, 2 - top), scene.text, fill=255, font=font)
    if scene.angle:
        mask = mask.rotate(scene.angle, Image.Resampling.BICUBIC, expand=True)
    picture.paste(scene.fill, (round(scene.x - mask.width / 2), round(scene.y - mask.height / 2)), mask)
    return picture


def letters(scene: Print) -> list[tuple[str, float, float, float, float]]:
    """Every character with its centre (x, y) and half its width and height before turning."""
    font = load_font(scene.font, scene.points)
    wide, high = extent(scene.text, scene.font, scene.points)
    turn = math.radians(scene.angle)
    placed = []
    for index, letter in enumerate(scene.text):
        start = font.getlength(scene.text[:index])
        size = font.getlength(letter)
        along = start + size / 2 - wide / 2
        # Pillow turns against the clock while y runs downwards.
        x, y = scene.x + along * math.cos(turn), scene.y - along * math.sin(turn)
        placed.append((letter.lower(), x, y, size / 2, high / 2))
    return placed
