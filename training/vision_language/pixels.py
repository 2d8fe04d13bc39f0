"""From drawn scenes to patches and cell labels.

Knows the image processor's limits and patch layout (Qwen2.5-VL: patches of 14 pixels, merged two
by two into cells of 28), which picture sizes are used, and how a scene labels its cells.
"""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from training.vision_language.scenes import COLOURS, SHAPES, Scene, draw

PATCH, MERGE, CELL = 14, 2, 28
# Sixteen to twenty-five cells: enough for shapes of 15 % of the side, and quick on a CPU.
MIN_PIXELS, MAX_PIXELS = 112 * 112, 140 * 140
# A light background becomes about zero.
MEAN, STD = 0.9, 0.35
Size = tuple[int, int]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

COMMON_SIZES: tuple[Size, ...] = (
    (224, 224), (224, 224), (448, 448), (256, 256), (200, 200), (300, 300), (320, 320),
    (336, 336), (384, 384), (400, 400), (512, 512), (128, 128), (112, 112), (100, 100), (64, 64),
    (320, 240), (400, 300), (640, 480), (480, 360), (240, 320), (480, 640), (300, 200), (600, 400),
    (480, 270), (400, 200), (200, 300), (200, 400), (360, 120), (600, 200), (800, 600), (512, 256),
)  # fmt: skip


def cells_of(size: Size) -> Size:
    """Cell rows and columns that the image processor gives a picture of (width, height)."""
    height, width = smart_resize(size[1], size[0], CELL, MIN_PIXELS, MAX_PIXELS)
    return height // CELL, width // CELL


class PictureSizes:
    """Picture sizes by cell grid, so that a batch can share one grid."""

    def __init__(self, seed: int = 0, extra: int = 300) -> None:
        rng = random.Random(seed)
        # Sizes that people type weigh about twice as much as all odd ones together.
        sizes = list(COMMON_SIZES) * 20
        for _ in range(extra):
            width = rng.randint(100, 420)
            sizes.append((width, int(width * 2 ** rng.uniform(-0.8, 0.8))))
        self.by_grid: dict[Size, list[Size]] = defaultdict(list)
        for size in sizes:
            self.by_grid[cells_of(size)].append(size)
        self.all = sizes

    def grid(self, rng: random.Random) -> Size:
        """A random grid, as frequent as the sizes that lead to it."""
        return cells_of(rng.choice(self.all))

    def size(self, rng: random.Random, grid: Size) -> Size:
        """A random picture size with this grid; large ones are costly to draw, so rarer."""
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


def cell_labels(scene: Scene, grid: Size) -> Ints:
    """Labels [cells, 3]: shape and colour (0 is background), and 1 where an item has its centre."""
    labels = np.zeros((*grid, 3), dtype=np.int64)
    rows, columns = np.mgrid[0 : grid[0], 0 : grid[1]] + 0.5
    step_x, step_y = scene.width / grid[1], scene.height / grid[0]
    for item in scene.items:
        kind = (SHAPES.index(item.shape) + 1, list(COLOURS).index(item.colour) + 1)
        away = ((columns * step_x - item.x) ** 2 + (rows * step_y - item.y) ** 2) ** 0.5
        labels[away < 0.8 * item.radius, :2] = kind
    # Centres go last: a neighbour's edge must not overwrite them.
    for item in scene.items:
        kind = (SHAPES.index(item.shape) + 1, list(COLOURS).index(item.colour) + 1)
        labels[int(item.y / step_y), int(item.x / step_x)] = (*kind, 1)
    return labels.reshape(-1, 3)


def picture_batch(scenes: list[Scene], grid: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches [batch, n, 588] and cell labels [batch, cells, 3] of scenes that share a grid."""
    cut = np.stack([patches(shrink(draw(scene), grid)) for scene in scenes])
    labels = np.stack([cell_labels(scene, grid) for scene in scenes])
    return torch.from_numpy(cut), torch.from_numpy(labels)
