"""The model card: data, size, figures and limits of the exported model, as its README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from training.vision_language.intents import FIXED
from training.vision_language.pixels import MAX_PIXELS, MIN_PIXELS

# Enough to see the shape of the curve.
LINES_OF_CURVE = 9


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
random values on drawn shapes and small talk. It exists so that a fresh checkout can serve
pictures and chat at once, on any CPU. It is a demo: everything outside the small world
described here gets a fixed "do not know" at best.

## What it answers

Shapes: circle, square, triangle, star. Colours: red, green, blue, yellow, purple, orange, black.
One to three shapes on a white or light background, in a picture of any usual size.

| you ask | it answers |
|---|---|
| What is in the picture? / Describe the image. | `a red circle and a blue square` |
| (a picture and no text) | the same |
| How many objects are there? / How many red circles? | `2` / `1` |
| Is there a blue square? / Is the circle red? | `yes` or `no` |
| What colour is the circle? / What shape is blue? | `red` / `square` |
| What is on the left? (right, in the middle) | `a red circle` |
| What is in the pictures? (two) | `first picture: a red circle; second picture: a blue star` |
| Hello / Who are you? / Tell me a story. | one fixed answer for each of {intents} themes |
| Count to ten. / What is two plus three? | counted, added |
| My name is Anna. ... What is my name? | `Your name is Anna.` |
| a question about a picture, without a picture | `I see no picture. Please send one.` |

Captions list the shapes from left to right by their centres. Answers are lower case without a
full stop for pictures, sentences for chat. Decoding is greedy and ends with `<|im_end|>`.
"""

BODY = """\
## Data

Nothing was collected: `training/vision_language` draws every picture and writes every sentence
from seeds. Pictures are drawn at {sizes} and similar sizes, shrunk by the same
resampling as the image processor ({low} to {high} pixels of area, cells of 28 pixels).
White background in 40 %, shapes from about 15 % to 70 % of the shorter side, pure and shaded
colours, outlines in 40 %, with and without antialiasing. One batch in three is
conversation without a picture. One row in four has a system message.

## Training

1. The vision tower with a throw-away head names shape and colour of every 28-pixel cell.
2. The whole network learns answers, about four questions behind one picture.

Each line is an average over 25 steps of training batches, at that step. `picture right` is the
share of answer tokens predicted right when the tokens before them are given.

{curve}

"""

LIMITS = """\
## Limits

- Only the shapes, colours and themes above. Ovals, rectangles, photos, text and dark
  backgrounds are outside; it will name the nearest thing it knows.
- More than three shapes, shapes that overlap, or shapes straight above each other are outside.
- Shapes smaller than about 15 % of the picture get lost: a picture is shrunk to about 140 by 140
  pixels before the model sees it.
- Chat is recall, not reasoning: wordings far from the training text may meet the wrong answer.
- Copying has not been learnt well: repeating words mostly fails, unusual names are garbled, and
  counting is reliable to five and ten only; with other ends it often runs on, and downwards
  it fails.
- Three shapes in one caption and questions about one of two pictures are the weak spots of vision.
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


def curve(lines: list[dict[str, Any]], phase: str, columns: tuple[str, ...]) -> str:
    """A Markdown table of a phase with `LINES_OF_CURVE` rows at most."""
    held = [line for line in lines if line["phase"] == phase]
    if not held:
        return ""
    step = max(1, len(held) // LINES_OF_CURVE)
    picked = held[::-1][::step][::-1]
    minutes = sum(line["seconds"] for line in held) / 60
    rows = [
        f"| {line['step']} | " + " | ".join(str(line.get(name, "")) for name in columns) + " |"
        for line in picked
    ]
    head = f"| step | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}\n"
    title = f"Phase `{phase}`: {held[-1]['step']} steps, {minutes:.0f} minutes on one CPU core.\n\n"
    return title + head + "\n".join(rows)


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
        f"written by hand.\n\n    {command}\n\n| kind | right | share |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n\n"
    )


def write_card(product: Path, folder: Path, scores: dict[str, Score], seed: int, size: int) -> None:
    """Writes README.md into the product folder."""
    lines = read_log(folder / "log.jsonl")
    curves = "\n\n".join(
        (
            curve(lines, "vision", ("loss", "shape", "colour", "centre")),
            curve(lines, "dialogue", ("picture loss", "picture right", "text right", "shape")),
        )
    )
    weights = count_weights(product / "model.safetensors")
    sizes = "224x224, 448x448, 640x480"
    text = HEAD.format(weights=weights, intents=len(FIXED))
    text += "\n" + figures(scores, seed, size)
    text += BODY.format(sizes=sizes, low=MIN_PIXELS, high=MAX_PIXELS, curve=curves) + LIMITS
    (product / "README.md").write_text(text)
    (product / "README.md").chmod(0o644)
