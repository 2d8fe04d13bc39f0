"""What a training run saves, and the moving average of weights that is exported."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# An average over about the last 1,000 steps is as good as a finished decay of the learning rate,
# so that a model worth exporting exists at any time.
_DECAY = 0.998


class Average:
    """Exponential moving average of a module's parameters, younger at the start of a run."""

    def __init__(self, module: nn.Module) -> None:
        self.values = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        rate = 1.0 - min(_DECAY, (1.0 + step) / (20.0 + step))
        for name, parameter in module.named_parameters():
            self.values[name].lerp_(parameter.detach(), rate)


@dataclass
class Progress:
    """Position in a run: windows seen and seconds spent, and the same with all runs before."""

    step: int = 0
    pool: int = 0
    samples: int = 0
    seconds: float = 0.0
    all_samples: int = 0
    all_seconds: float = 0.0


def save(
    path: Path, progress: Progress, module: nn.Module, average: Average, optimizers: list[torch.optim.Optimizer]
) -> None:
    state = {
        "progress": vars(progress),
        "model": module.state_dict(),
        "average": average.values,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    # A reader (an export, an evaluation) must never see half a file.
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def averaged_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights under the names of ``WhisperForConditionalGeneration``."""
    prefix = "whisper."
    both = {**state["model"], **state["average"]}
    return {name.removeprefix(prefix): v for name, v in both.items() if name.startswith(prefix)}
