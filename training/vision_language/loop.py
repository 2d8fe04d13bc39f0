"""The training loop both phases share: optimiser, schedule, checkpoints, log.

A checkpoint holds everything a run needs to go on: weights, optimiser state and the step. Each
step draws from its own random stream, so a resumed run sees the data an unbroken one would.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

Step = Callable[[random.Random, float], tuple[torch.Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Plan:
    """One phase: its name, length, learning rate and how often it reports and saves."""

    phase: str
    steps: int
    peak: float
    seed: int
    folder: Path
    warmup: int = 100
    decay_share: float = 0.4
    report_every: int = 25
    save_every: int = 150


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, a plateau, then a linear fall to zero over the last `decay_share`."""
    left = (plan.steps - step) / max(1.0, plan.steps * plan.decay_share)
    return plan.peak * min(1.0, (step + 1) / plan.warmup, max(0.0, left))


def make_optimiser(modules: Iterable[nn.Module]) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    # Tied weights appear in two places and must be stepped once.
    weights = {id(w): w for module in modules for w in module.parameters() if w.requires_grad}
    matrices = [w for w in weights.values() if w.dim() >= 2]
    vectors = [w for w in weights.values() if w.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def save(path: Path, modules: dict[str, nn.Module], extra: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all."""
    state = {name: module.state_dict() for name, module in modules.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"modules": state, **extra}, partial)
    # A run killed while writing keeps its last whole checkpoint.
    os.replace(partial, path)


def load(path: Path, modules: dict[str, nn.Module]) -> dict[str, Any]:
    """Reads weights back into `modules` and returns the rest of the checkpoint."""
    held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(held["modules"][name])
    return held


class Meter:
    """Averages what steps report and writes one JSON line per report."""

    def __init__(self, path: Path) -> None:
        self.path, self.sums, self.counts = path, dict[str, float](), dict[str, int]()
        self.since = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, values: dict[str, float]) -> None:
        """Takes one step's figures; NaN marks a figure the step does not have."""
        for name, value in values.items():
            # NaN is the only value unequal to itself.
            if value == value:
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def report(self, head: dict[str, Any]) -> None:
        """Appends the averages since the last report, with the time they took."""
        means = {name: round(self.sums[name] / self.counts[name], 4) for name in self.sums}
        seconds = round(time.monotonic() - self.since, 1)
        line = json.dumps({**head, "seconds": seconds, **means})
        with self.path.open("a") as log:
            log.write(line + "\n")
        print(line, flush=True)
        self.sums, self.counts, self.since = {}, {}, time.monotonic()


def train(plan: Plan, modules: dict[str, nn.Module], step_fn: Step) -> None:
    """Runs a phase to its end, from its checkpoint where there is one.

    `step_fn(rng, progress)` draws a batch and returns the loss and the figures to log.
    """
    path = plan.folder / f"{plan.phase}.pt"
    optimiser = make_optimiser(modules.values())
    start = 0
    if path.exists():
        held = load(path, modules)
        optimiser.load_state_dict(held["optimiser"])
        start = int(held["step"])
    weights = [w for group in optimiser.param_groups for w in group["params"]]
    meter = Meter(plan.folder / "log.jsonl")
    for step in range(start, plan.steps):
        rate = learning_rate(plan, step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Drawn from the step's own name: no generator state needs saving.
        rng = random.Random(f"{plan.seed}/{plan.phase}/{step}")
        loss, figures = step_fn(rng, step / plan.steps)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        meter.add(figures)
        done = step + 1
        if done % plan.report_every == 0 or done == plan.steps:
            meter.report({"phase": plan.phase, "step": done, "rate": round(rate, 6)})
        if done % plan.save_every == 0 or done == plan.steps:
            save(path, modules, {"optimiser": optimiser.state_dict(), "step": done})
