"""First phase: the vision tower alone learns to name every cell of a picture.

Learning shapes through captions takes several times as many pictures; see README.md.
"""

from __future__ import annotations

import random

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from training.vision_language.loop import Step
from training.vision_language.model import CellHead, cell_accuracy, cell_loss, vision_features
from training.vision_language.pixels import PictureSizes, Size, picture_batch
from training.vision_language.scenes import Scene, random_scene


def random_scenes(
    rng: random.Random, sizes: PictureSizes, grid: Size, count: int, weights: tuple[int, int, int]
) -> list[Scene]:
    """Scenes of one grid; `weights` are the odds of one, two and three items."""
    numbers = rng.choices((1, 2, 3), weights, k=count)
    return [random_scene(rng, *sizes.size(rng, grid), number) for number in numbers]


def warmup_step(
    model: Qwen2_5_VLForConditionalGeneration, head: CellHead, batch: int, device: torch.device
) -> Step:
    """The step function of this phase."""
    sizes = PictureSizes()
    visual = model.model.visual

    def step(rng: random.Random, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        # One grid a batch: equal shapes need neither padding nor a loop.
        grid = sizes.grid(rng)
        cut, labels = picture_batch(random_scenes(rng, sizes, grid, batch, (3, 3, 4)), grid)
        cut, labels = cut.to(device), labels.to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = head(vision_features(visual, cut, grid))
            loss = cell_loss(logits, labels)
        shape, colour, centre = cell_accuracy(logits, labels)
        figures = {"loss": loss.item(), "shape": shape, "colour": colour, "centre": centre}
        return loss, figures

    return step
