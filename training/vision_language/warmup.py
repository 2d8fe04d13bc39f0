"""First phase: the vision tower alone learns to name every cell of a picture.

Learning shapes through captions takes several times as many pictures; see README.md.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from training.vision_language.loop import Step
from training.vision_language.model import CellHead, cell_accuracy, cell_loss, vision_features
from training.vision_language.pixels import Picture, PictureSizes, Size, picture_batch
from training.vision_language.prints import random_print
from training.vision_language.scenes import random_scene

# Odds of a printed text and of one to five items.
CONTENTS = (24, 2, 2, 3, 3, 3)


def random_pictures(
    rng: random.Random, sizes: PictureSizes, grid: Size, count: int, odds: Sequence[int] = CONTENTS
) -> list[Picture]:
    """Pictures of one grid; `odds` are those of a printed text and of one to five items."""
    numbers = rng.choices(range(6), odds, k=count)
    return [random_picture(rng, sizes.size(rng, grid), number) for number in numbers]


def random_picture(rng: random.Random, size: Size, number: int) -> Picture:
    """A picture of `number` items, or with a printed text for zero."""
    return random_scene(rng, *size, number) if number else random_print(rng, *size)


def warmup_step(model: Qwen2_5_VLForConditionalGeneration, head: CellHead, batch: int, device: torch.device) -> Step:
    """The step function of this phase."""
    sizes = PictureSizes()
    visual = model.model.visual

    def step(rng: random.Random, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        # One grid a batch: equal shapes need neither padding nor a loop.
        grid = sizes.grid(rng)
        cut, labels = picture_batch(random_pictures(rng, sizes, grid, batch), grid)
        cut, labels = cut.to(device), labels.to(device)
        logits = head(vision_features(visual, cut, grid))
        loss = cell_loss(logits, labels)
        return loss, {"loss": loss.item(), **cell_accuracy(logits, labels)}

    return step
