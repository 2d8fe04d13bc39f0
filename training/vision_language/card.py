"""The model card: data, size, figures and limits of the exported model, as its README.md."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from safetensors import safe_open

from training.vision_language.intents import FIXED, PRINTED
from training.vision_language.pixels import MAX_PIXELS, MIN_PIXELS
from training.vision_language.prints import found_fonts

# What is plotted of each phase.
CURVES = {
    "vision": ("shape", "letter", "colour", "rank", "place"),
    "dialogue": ("picture right", "two right", "text right", "tools right", "letter"),
}


class Score(NamedTuple):
    """Answers that were right, out of those asked."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """Right out of asked, 0 to 1."""
        return self.right / max(1, self.asked)


HEAD = """\
---
pipeline_tag: image-text-to-text
library_name: transformers
language: en
tags: [demo, vision-language, synthetic]
---

# demo-vl: a vision-language model small enough to bundle

Qwen2.5-VL architecture (`Qwen2_5_VLForConditionalGeneration`), {weights:,} weights, trained from
random values on drawn shapes, printed words and small talk. It exists so that a fresh checkout
can serve pictures, tools and chat at once, on any CPU. It is a demo: everything outside the
small world described here gets a fixed "do not know" at best.

## What it answers

Shapes: circle, square, triangle, star. Colours: red, green, blue, yellow, purple, orange, black.
One to five of them on a white or light background, or one printed number (1 to 4 digits) or
word, in a picture of any usual size (sides up to 1 : 2.5).

| you ask | form of the answer |
|---|---|
| What is in the picture? / Describe the image. / (no text) | `a red circle and a blue square` |
| the same, of a printed number or word | `the number 482` / `the word tree` |
| How many objects are there? / How many red circles? | `2` / `1` |
| Is there a blue square? / Is the circle red? | `yes` or `no` |
| What colour is the circle? / What shape is blue? | `red` / `square` |
| What is on the left? (right, in the middle) | `a red circle` |
| What is left of the blue square? | `a red circle`, or `nothing` |
| Where is the red circle? | one of nine: `top left`, `top`, ..., `center`, ..., `bottom right` |
| Which object is the biggest? | `a red circle` |
| Is the circle bigger than the square? | `yes` or `no` |
| What number is printed? / Read the text. | `482` / `tree` |
| Which picture has more circles? (two pictures) | `the first`, `the second` or `both the same` |
| Which picture shows a star? | `the first`, `the second`, `both` or `neither` |
| How many stars are in the second picture? | `1` |
| What is in the pictures? | `first picture: a red circle; second picture: a blue star` |
| Hello / Who are you? / Tell me a story. | one fixed answer for each of {intents} themes |
| Count to 5. | `1 2 3 4 5` |
| What is 4 + 4? | the sum in digits |
| Spell tree. / Spell tree backwards. | `t r e e` / `e e r t` |
| Repeat after me: green apple | `green apple` |
| My name is Anna. ... What is my name? | `Your name is Anna.` |
| a question about a picture, without a picture | `I see no picture. Please send one.` |

The forms are fixed; how often the content is right is in the figures below. Captions list the
shapes from left to right by their centres. Decoding is
greedy and ends with `<|im_end|>`.

A system message chooses the form. `Answer briefly.` is the above. `Answer in full sentences.`
gives `The picture shows a red circle.`, `There are 3 objects.`, `Yes, there is a triangle.`
`Answer in JSON.` gives `{{"objects": [{{"color": "red", "shape": "circle"}}]}}` for a caption of
shapes and `{{"answer": "3"}}` for everything else.

Tools (the Hermes form, as Qwen2.5): `get_weather(city)`, `get_time(city)`, `roll_dice(sides)`,
`calculate(expression)` and `play_music(song)` or `play_music(genre)`, one to three at a time. A
question that needs one gets `<tool_call>`, a result gets a sentence such as
`It is sunny and 18 degrees in Paris.` Without the tool the answer is `I cannot know that.`

It spells, and reads best, these {number} words:

{words}
"""

BODY = """\
## Data

Nothing was collected: `training/vision_language` draws every picture and writes every sentence
from seeds. Pictures are drawn at 96 to 1600 pixels a side and shrunk by the same resampling as
the image processor ({low} to {high} pixels of area, cells of 28 pixels). Every other background is
white; shapes take 11 % to 80 % of the shorter side, pure and shaded colours, outlines in 38 %.
One picture in three holds a printed text, in {fonts} font files of the DejaVu, Liberation,
FreeFont, Lato, Open Sans, Noto, Comic Neue, Cantarell, Inconsolata and Carlito families; Roboto and
Caladea were kept for the evaluation. About a third of the batches ask about one picture of shapes,
one in four about printed texts, one in four about two pictures (at the end nearly half), the others
are chat, tools, and pictures beside tools that nobody needs.
Nearly half of the rows have a system message.

## Training

1. The vision tower with a throw-away head names every 28-pixel cell: shape or character, colour,
   rank from left to right, place and size.
2. The whole network learns answers, about seven questions behind one picture.

{curve}

![Curves of both phases](curve.png)

"""

LIMITS = """\
## Limits

- Below nine in ten, by the figures above: {weak}.
- Only the shapes, colours, tools and themes above. Ovals, rectangles, photos and dark backgrounds
  are outside; it will name the nearest thing it knows.
- More than five shapes, shapes that overlap, or shapes straight above each other are outside. So
  are texts of more than one word, and punctuation.
- Shapes smaller than about 11 % of the picture get lost: a picture is shrunk to about 168 by 168
  pixels before the model sees it.
- Chat is recall, not reasoning: wordings far from the training text may meet the wrong answer.
- Other tools than those five were never trained.
- More than two pictures in one conversation were never trained.
- Without `mm_token_type_ids` the library numbers positions in one dimension and accuracy falls,
  without a warning. There is no processor class in the folder: tokenizer and image processor load
  apart, and `<|image_pad|>` is repeated once per merged cell, as in
  `training/vision_language/runner.py`.
"""


def count_weights(path: Path) -> int:
    """Number of weights in a safetensors file."""
    total = 0
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def read_log(path: Path) -> list[dict[str, Any]]:
    """The log lines, the last one winning where a resumed run repeated steps."""
    # A run resumed from a checkpoint repeats the steps after it.
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        lines[line["phase"], line["step"]] = line
    return [lines[key] for key in sorted(lines, key=lambda key: (key[0] != "vision", key[1]))]


def summary(lines: list[dict[str, Any]], phase: str) -> str:
    """One sentence on the length of a phase."""
    held = [line for line in lines if line["phase"] == phase]
    if not held:
        return ""
    minutes = held[-1]["minutes"]
    return f"Phase `{phase}`: {held[-1]['step']} steps, {minutes:.0f} minutes on one CPU core."


def smooth(values: list[float], width: int = 5) -> list[float]:
    """A running mean."""
    spans = [values[max(0, k - width + 1) : k + 1] for k in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Draws the curves of both phases over the minutes of training."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (phase, names) in zip(axes, CURVES.items(), strict=True):
        for name in names:
            held = [line for line in lines if line["phase"] == phase and name in line]
            values = smooth([line[name] for line in held])
            axis.plot([line["minutes"] for line in held], values, label=name, linewidth=1)
        axis.set(title=f"{phase}: share right", xlabel="minutes", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=80)
    path.chmod(0o644)


def figures(scores: dict[str, Score], seed: int, size: int) -> str:
    """The evaluation as a Markdown table."""
    command = f"python -m training.vision_language.evaluate --seed {seed} --size {size}"
    total = Score(sum(s.right for s in scores.values()), sum(s.asked for s in scores.values()))
    rows = [
        f"| {kind} | {score.right} / {score.asked} | {score.share:.1%} |"
        for kind, score in [*scores.items(), ("all", total)]
    ]
    return (
        "## Figures\n\nExact match of whole answers, unmodified library classes, one question at a "
        "time, pictures drawn from seeds that training never used. `other drawing code` is a plain "
        "PIL script that shares nothing with the training pictures; `unseen wordings` are "
        f"written by hand.\n\n    {command}\n\n| kind | right | share |\n|---|---|---|\n" + "\n".join(rows) + "\n\n"
    )


def write_card(product: Path, folder: Path, scores: dict[str, Score], seed: int, size: int) -> None:
    """Writes README.md and curve.png into the product folder."""
    lines = read_log(folder / "log.jsonl")
    plot(lines, product / "curve.png")
    weights = count_weights(product / "model.safetensors")
    text = HEAD.format(
        weights=weights, intents=len(FIXED), number=len(PRINTED), words=textwrap.fill(" ".join(PRINTED), 98)
    )
    text += "\n" + figures(scores, seed, size)
    curve = "\n".join(summary(lines, phase) for phase in CURVES)
    fonts = len(found_fonts())
    text += BODY.format(low=MIN_PIXELS, high=MAX_PIXELS, curve=curve, fonts=fonts)
    weak = [f"{kind} ({score.share:.0%})" for kind, score in scores.items() if score.share < 0.9]
    text += LIMITS.format(weak=", ".join(weak) or "nothing")
    (product / "README.md").write_text(text)
    (product / "README.md").chmod(0o644)
