"""The training loop both phases share: optimisers, schedule, checkpoints, log.

A checkpoint holds everything a run needs to go on: weights, optimiser state, step and the minutes
spent. Each step draws from its own random stream, named by the step.
"""

from __future__ import annotations

import json
import os
import random
import signal
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
    """One phase: its name, length in minutes, learning rate, how often it reports and saves."""

    phase: str
    minutes: float
    peak: float
    seed: int
    folder: Path
    decay_share: float
    warmup: int = 60
    report_every: int = 25
    save_every_s: float = 120.0


def learning_rate(plan: Plan, step: int, progress: float) -> float:
    """Linear warm-up, a plateau, then a linear fall to zero over the last `decay_share`."""
    left = (1 - progress) / plan.decay_share
    return plan.peak * min(1.0, (step + 1) / plan.warmup, max(0.01, left))


class Optimiser:
    """Muon for the matrices of the layers, AdamW for everything else, at one learning rate.

    Muon ("MomentUm Orthogonalized by Newton-Schulz", K. Jordan, 2024) needs about half the steps
    of AdamW here; with `match_rms_adamw` its updates are as large as AdamW's.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # Tied weights appear in two places and must be stepped once.
        named = {id(w): (name, w) for module in modules for name, w in module.named_parameters()}
        layers, rest = list[nn.Parameter](), list[nn.Parameter]()
        for name, weight in named.values():
            hidden = weight.dim() == 2 and not any(part in name for part in ("embed", "out."))
            (layers if hidden else rest).append(weight)
        self.weights = [*layers, *rest]
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(layers, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )

    def step(self, rate: float) -> None:
        """One update at a learning rate, from gradients clipped to norm 1."""
        nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=True)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """Everything needed to go on."""
        return [part.state_dict() for part in self.parts]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Takes over what `state` gave."""
        for part, held in zip(self.parts, state, strict=True):
            part.load_state_dict(held)


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


class Run:
    """A phase under way: what a checkpoint holds, and when the next is due."""

    def __init__(self, plan: Plan, modules: dict[str, nn.Module]) -> None:
        self.plan, self.modules = plan, modules
        self.optimiser = Optimiser(modules.values())
        self.path = plan.folder / f"{plan.phase}.pt"
        self.steps, self.spent, self.plateau_kept = 0, 0.0, False
        if self.path.exists():
            held = load(self.path, modules)
            self.optimiser.restore(held["optimiser"])
            self.steps, self.spent = int(held["step"]), float(held["spent_s"])
        self.started = self.saved = time.monotonic()
        self.stopped = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, *_: object) -> None:
        """Ends the sitting after the step under way."""
        self.stopped = True

    def __repr__(self) -> str:
        return f"Run({self.plan.phase}, step {self.steps}, {self.seconds():.0f} s)"

    def seconds(self) -> float:
        """Training time of this phase, over all its sittings."""
        return self.spent + time.monotonic() - self.started

    def progress(self) -> float:
        """Share of the phase's time that is spent."""
        return self.seconds() / (60 * self.plan.minutes)

    def save(self, path: Path) -> None:
        """Writes a checkpoint to `path`."""
        state = {"optimiser": self.optimiser.state(), "step": self.steps, "spent_s": self.seconds()}
        save(path, self.modules, state)
        self.saved = time.monotonic()

    def may_save(self) -> None:
        """Saves where it is time to; once more, under another name, as the decay begins."""
        # A run is best lengthened from before its decay.
        if not self.plateau_kept and self.progress() > 1 - self.plan.decay_share:
            self.save(self.path.with_name(f"{self.plan.phase}-plateau.pt"))
            self.plateau_kept = True
        if time.monotonic() - self.saved > self.plan.save_every_s:
            self.save(self.path)


def train(plan: Plan, modules: dict[str, nn.Module], step_fn: Step) -> None:
    """Runs a phase to its end (or to SIGINT or SIGTERM), from its checkpoint where there is one.

    `step_fn(rng, progress)` draws a batch and returns the loss and the figures to log.
    """
    run, meter = Run(plan, modules), Meter(plan.folder / "log.jsonl")
    run.plateau_kept = run.progress() > 1 - plan.decay_share
    while (progress := run.progress()) < 1 and not run.stopped:
        rate = learning_rate(plan, run.steps, progress)
        # Drawn from the step's own name: no generator state needs saving.
        loss, figures = step_fn(random.Random(f"{plan.seed}/{plan.phase}/{run.steps}"), progress)
        torch.autograd.backward(loss)
        run.optimiser.step(rate)
        run.steps += 1
        meter.add(figures)
        if run.steps % plan.report_every == 0:
            minutes = round(run.seconds() / 60, 2)
            meter.report({"phase": plan.phase, "step": run.steps, "minutes": minutes, "rate": round(rate, 6)})
        run.may_save()
    run.save(run.path)
