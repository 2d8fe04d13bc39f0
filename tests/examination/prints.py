"""Printed numbers and words: drawn in the machine's fonts, anywhere in the picture and slightly turned."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tests.examination.canvas import SHADES, Rgb, Size, background, encoded, random_style
from tests.examination.question import IMAGE, Question, user
from tests.examination.scenes import random_size

NUMBER = ("What number is printed?", "What number is this?", "Which number do you see?", "Read the number.")
WORD = ("What word is printed?", "Which word do you see?", "What word is this?", "Read the word.")
ANY = ("What does it say?", "Read the text.", "What is written in the picture?", "What does the picture say?")
CAPTION = ("What is in the picture?", "Describe the image.", "What do you see?", "")
# Yellow letters on white are no fair question.
INKS = tuple(color for color in SHADES if color != "yellow")
MAX_ANGLE = 20
# The least height of the letters, and the greatest share of the picture's width and height that they fill.
_MIN_HEIGHT, _MAX_FILL = 0.13, 0.94
_FOLDER = Path("/usr/share/fonts/truetype")
# Symbols of mathematics, and strokes of a hair's breadth.
_UNUSUAL = ("Math", "ExtraLight")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def ask_number(dice: random.Random) -> Question:
    digits = dice.randint(1, 4)
    number = str(dice.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
    return _ask(dice, "number", number, (*NUMBER, *ANY))


def word_maker(words: tuple[str, ...], dice: random.Random) -> Question:
    """A word of the list in small letters or capitals; the answer is in small ones."""
    return _ask(dice, "word", dice.choice(words), (*WORD, *ANY))


def print_text(dice: random.Random, text: str) -> bytes:
    """A picture that shows `text` and nothing else."""
    while True:
        size = random_size(dice, max_aspect=2.0)
        mask = _mask(dice, text, size)
        if mask is not None:
            break
    style = random_style(dice)
    image = background(size, style)
    ink: Rgb = dice.choice(SHADES[dice.choice(INKS)])
    corner = (dice.randint(0, size[0] - mask.width), dice.randint(0, size[1] - mask.height))
    image.paste(Image.new("RGB", mask.size, ink), corner, mask)
    return encoded(image, style)


@cache
def font_files() -> tuple[Path, ...]:
    files = [file for family in ("dejavu", "liberation") for file in sorted((_FOLDER / family).glob("*.ttf"))]
    return tuple(file for file in files if not any(word in file.name for word in _UNUSUAL))


def ask_to_read(dice: random.Random) -> Question:
    """A number, and never its caption."""
    return next(question for question in iter(lambda: ask_number(dice), None) if question.kind == "number: read")


def _ask(dice: random.Random, group: str, text: str, wordings: tuple[str, ...]) -> Question:
    shown = text.upper() if dice.random() < 0.4 else text
    picture = (print_text(dice, shown),)
    if dice.random() < 0.2:
        asked, kind, answer = dice.choice(CAPTION), f"{group}: caption", f"the {group} {text}"
    else:
        asked, kind, answer = dice.choice(wordings), f"{group}: read", text
    return Question(kind, (user(*[part for part in (IMAGE, asked) if part]),), answer, picture)


def _mask(dice: random.Random, text: str, size: Size) -> Image.Image | None:
    """The turned text in a box as small as it can be; None if it is too small to read or does not fit."""
    font = _font(dice, round(min(size) * dice.uniform(0.15, 0.9)))
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    mask = Image.new("L", (right - left + 4, bottom - top + 4))
    pen = ImageDraw.Draw(mask)
    pen.fontmode = "1" if dice.random() < 0.2 else "L"
    pen.text((2 - left, 2 - top), text, fill=255, font=font)
    angle = dice.choice((0, 0, dice.uniform(-MAX_ANGLE, MAX_ANGLE)))
    turned = mask.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    fits = turned.width <= size[0] * _MAX_FILL and turned.height <= size[1] * _MAX_FILL
    readable = bottom - top >= _MIN_HEIGHT * (size[0] * size[1]) ** 0.5
    return turned if fits and readable else None


def _font(dice: random.Random, height: int) -> Font:
    """Any of the machine's fonts, at times Pillow's own, which is always there."""
    if not font_files() or dice.random() < 0.05:
        return ImageFont.load_default(size=height)
    return ImageFont.truetype(dice.choice(font_files()), height)
