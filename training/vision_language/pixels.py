"""From drawn scenes to patches and cell labels.

Knows the image processor's limits and patch layout (Qwen2.5-VL: patches of 14 pixels, merged two
by two into cells of 28), which picture sizes are used, and how a scene labels its cells.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from training.vision_language.prints import Print, draw_print, letters
from training.vision_language.scenes import COLOURS, SHAPES, Scene, draw

PATCH, MERGE, CELL = 14, 2, 28
# About 25 to 36 cells: enough for shapes of 12 % of the side or a word of six letters, and still
# quick on a CPU.
MIN_PIXELS, MAX_PIXELS = 140 * 140, 168 * 168
# A light background becomes about zero.
MEAN, STD = 0.9, 0.35
Size = tuple[int, int]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

COMMON_SIZES: tuple[Size, ...] = (
    (224, 224), (224, 224), (448, 448), (256, 256), (200, 200), (300, 300), (320, 320), (150, 150),
    (336, 336), (384, 384), (400, 400), (512, 512), (128, 128), (112, 112), (100, 100), (96, 96),
    (320, 240), (400, 300), (640, 480), (480, 360), (240, 320), (480, 640), (300, 200), (600, 400),
    (480, 270), (400, 200), (200, 300), (200, 400), (400, 160), (600, 250), (300, 400), (512, 256),
    (160, 120), (500, 300), (500, 500), (600, 600), (256, 192), (160, 400),
)  # fmt: skip
LARGE_SIZES: tuple[Size, ...] = (
    (800, 600), (1024, 768), (1024, 1024), (1280, 720), (1600, 900), (800, 800), (600, 800),
    (768, 1024), (1200, 800), (1600, 1200),
)  # fmt: skip
KINDS = (*SHAPES, *"abcdefghijklmnopqrstuvwxyz0123456789")
# Radii in steps of 15 %, from this share of the root of the area up.
SMALLEST, STEPS = 0.05, 15
# What a cell is labelled with, and how many answers each question has.
LABELS = {"kind": len(KINDS) + 1, "colour": len(COLOURS) + 1, "rank": 7, "second": len(KINDS) + 1,
          "third": 10, "size": STEPS + 1}  # fmt: skip
Picture = Scene | Print


def cells_of(size: Size) -> Size:
    """Cell rows and columns that the image processor gives a picture of (width, height)."""
    height, width = smart_resize(size[1], size[0], CELL, MIN_PIXELS, MAX_PIXELS)
    return height // CELL, width // CELL


class PictureSizes:
    """Picture sizes by cell grid, so that a batch can share one grid."""

    def __init__(self, seed: int = 0, extra: int = 500) -> None:
        rng = random.Random(seed)
        # Sizes that people type weigh about as much as all odd ones together.
        sizes = list(COMMON_SIZES) * 12
        for _ in range(extra):
            area, ratio = rng.uniform(100, 420) ** 2, 2.6 ** rng.uniform(-1, 1)
            sizes.append((max(64, int((area * ratio) ** 0.5)), max(64, int((area / ratio) ** 0.5))))
        self.large: dict[Size, list[Size]] = defaultdict(list)
        for size in LARGE_SIZES:
            self.large[cells_of(size)].append(size)
        self.by_grid: dict[Size, list[Size]] = defaultdict(list)
        for size in sizes:
            self.by_grid[cells_of(size)].append(size)
        self.all = sizes

    def grid(self, rng: random.Random) -> Size:
        """A random grid, as frequent as the sizes that lead to it."""
        return cells_of(rng.choice(self.all))

    def size(self, rng: random.Random, grid: Size) -> Size:
        """A random picture size with this grid; large ones are costly to draw, so rarer."""
        if self.large.get(grid) and rng.random() < 0.03:
            return rng.choice(self.large[grid])
        one, two = rng.choice(self.by_grid[grid]), rng.choice(self.by_grid[grid])
        return min(one, two) if rng.random() < 0.5 else one


def shrink(picture: Image.Image, grid: Size) -> Floats:
    """Resizes as the image processor does and returns normalised values [rows, columns, 3]."""
    small = picture.resize((grid[1] * CELL, grid[0] * CELL), Image.Resampling.BICUBIC)
    return (np.asarray(small, dtype=np.float32) / 255.0 - MEAN) / STD


def patches(values: Floats) -> Floats:
    """Cuts [rows, columns, 3] into patches [n, 3 * 14 * 14] in the processor's order.

    The processor repeats each patch for two frames; `vision_features` sums the two halves of
    the embedding weight instead, so that one copy is enough.
    """
    rows, columns = values.shape[0] // CELL, values.shape[1] // CELL
    split = values.reshape(rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
    return split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns * MERGE**2, -1)


def draw_any(scene: Picture) -> Image.Image:
    """Draws a scene or a printed text."""
    return draw_print(scene) if isinstance(scene, Print) else draw(scene)


def size_class(radius: float, area: float) -> int:
    """The step of the logarithmic scale of radii, 1 to STEPS."""
    step = math.log(max(radius / math.sqrt(area), SMALLEST) / SMALLEST) / math.log(1.15)
    return min(STEPS, 1 + int(step))


def label_scene(scene: Scene, labels: Ints, step: tuple[float, float]) -> None:
    """Fills the labels [rows, columns, 6] of a scene whose cells measure `step` pixels."""
    rows, columns = np.mgrid[0 : labels.shape[0], 0 : labels.shape[1]] + 0.5
    kinds = [(KINDS.index(item.shape) + 1, list(COLOURS).index(item.colour) + 1) for item in scene.items]
    for item, kind in zip(scene.items, kinds, strict=True):
        away = np.hypot(columns * step[0] - item.x, rows * step[1] - item.y)
        labels[away < 0.8 * item.radius, :2] = kind
    # Centres go last: a neighbour's edge must not overwrite them.
    for rank, (item, kind) in enumerate(zip(scene.items, kinds, strict=True), 1):
        third = 1 + 3 * int(3 * item.y / scene.height) + int(3 * item.x / scene.width)
        size = size_class(item.radius, scene.width * scene.height)
        cell = labels[int(item.y / step[1]), int(item.x / step[0])]
        if cell[2]:
            cell[3] = kind[0]
        else:
            cell[:] = (*kind, rank, 0, third, size)


def label_print(scene: Print, labels: Ints, step: tuple[float, float]) -> None:
    """The same for a printed text: each cell's character, and where characters have centres."""
    rows, columns = np.mgrid[0 : labels.shape[0], 0 : labels.shape[1]] + 0.5
    colour, turn = list(COLOURS).index(scene.colour) + 1, math.radians(scene.angle)
    placed = letters(scene)
    for letter, x, y, wide, high in placed:
        across, down = columns * step[0] - x, rows * step[1] - y
        along = across * math.cos(turn) - down * math.sin(turn)
        aside = across * math.sin(turn) + down * math.cos(turn)
        inside = (abs(along) < wide) & (abs(aside) < high)
        labels[inside, :2] = (KINDS.index(letter) + 1, colour)
    for rank, (letter, x, y, _, _) in enumerate(placed, 1):
        row = min(max(int(y / step[1]), 0), labels.shape[0] - 1)
        column = min(max(int(x / step[0]), 0), labels.shape[1] - 1)
        cell = labels[row, column]
        if cell[2]:
            cell[3] = KINDS.index(letter) + 1
        else:
            cell[:4] = (KINDS.index(letter) + 1, colour, rank, 0)


def cell_labels(scene: Picture, grid: Size) -> Ints:
    """Labels [cells, 6] in the order of LABELS; 0 is nothing.

    Rank (left to right), second kind, third of the picture and size stand only where an item or
    a character has its centre.
    """
    labels = np.zeros((*grid, len(LABELS)), dtype=np.int64)
    step = (scene.width / grid[1], scene.height / grid[0])
    if isinstance(scene, Print):
        label_print(scene, labels, step)
    else:
        label_scene(scene, labels, step)
    return labels.reshape(-1, len(LABELS))


def picture_batch(scenes: Sequence[Picture], grid: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches [batch, n, 588] and cell labels [batch, cells, 6] of pictures that share a grid."""
    cut = np.stack([patches(shrink(draw_any(scene), grid)) for scene in scenes])
    labels = np.stack([cell_labels(scene, grid) for scene in scenes])
    return torch.from_numpy(cut), torch.from_numpy(labels)
