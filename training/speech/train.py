"""Train the demo speech model: ``python -m training.speech.train DATA RUN --minutes 100``.

Knows the phases and their order. A run writes ``checkpoint.pt`` and ``log.jsonl`` to its folder and
goes on from the checkpoint when started again. Its minutes are divided among the phases, so a
faster machine sees more data in the same time. ``stable.pt`` is the checkpoint before the learning
rate falls: ``--init`` starts a longer run from it.
"""

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from training.speech import checkpoint, model, tokenizer, windows
from training.speech.dataset import Clips
from training.speech.windows import Mix

_LOG_STEPS = 25
_SAVE_SECONDS = 120.0
_WARM_UP_STEPS = 60
_RATE = 2.5e-3
# The rate falls to nothing over the last part of a run.
_DECAY = 0.35


@dataclass(frozen=True)
class Phase:
    """Training on one mix until this share of the run's time is over."""

    name: str
    until: float
    mix: Mix


# Attention forms on clips alone; the window around them, and several clips in it, come after.
PHASES = (
    Phase("align", 0.06, Mix(pads=0, moved=0.0, several=0.0, long=0.0, silent=0.0, prompted=0.0)),
    Phase("main", 0.4, Mix(pads=12, several=0.12, most=3, long=0.01)),
    Phase("window", 0.97, Mix(pads=24, several=0.25, long=0.025, timestamps=0.5)),
    Phase("full", 1.0, Mix(pads=1500, several=0.35, long=0.05, batch=8)),
)


def learning_rate(progress: checkpoint.Progress, length_s: float) -> float:
    """Warm up, stay, fall linearly."""
    left = max(0.0, 1.0 - progress.seconds / length_s)
    return _RATE * min(1.0, (progress.step + 1) / _WARM_UP_STEPS, left / _DECAY)


def optimizers(trainee: model.Trainee) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for embeddings, convolutions and vectors."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in trainee.named_parameters():
        inside = ".layers." in name and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    # With this adjustment one learning rate serves both.
    muon = torch.optim.Muon(matrices, lr=_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01)]


class Run:
    """One training run in a folder."""

    def __init__(self, data: Path, folder: Path, length_s: float, init: Path | None, seed: int = 1) -> None:
        torch.manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.folder, self.length_s, self.seed = folder, length_s, seed
        self.clips, vocabulary = Clips(data), tokenizer.build()
        self.targets = windows.Targets(vocabulary)
        whisper = model.create(vocabulary)
        self.trainee = model.Trainee(whisper, len(self.clips.inventory)).to(self.device)
        self.optimizers = optimizers(self.trainee)
        self.progress, self.saved_s = checkpoint.Progress(), 0.0
        self._restore(init)

    def __repr__(self) -> str:
        return f"Run({self.folder}, {self.progress})"

    def _restore(self, init: Path | None) -> None:
        saved = self.folder / "checkpoint.pt"
        source = saved if saved.exists() else init
        state = checkpoint.load(source) if source else None
        if state:
            self.trainee.load_state_dict(state["model"])
        self.average = checkpoint.Average(self.trainee)
        if not state:
            return
        self.average.values = {k: v.to(self.device) for k, v in state["average"].items()}
        # Fresh moments at a full learning rate undo some of what was learned.
        for optimizer, moments in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        self.progress = checkpoint.Progress(**state["progress"])
        if source != saved:
            # Another run is past aligning, and its warm-up is long over.
            self.progress.samples, self.progress.seconds = 0, PHASES[0].until * self.length_s
        self.saved_s = self.progress.seconds

    def step(self, batch: windows.Batch, rate: float) -> model.Losses:
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16):
            losses: model.Losses = self.trainee(batch.to(self.device))
        self.trainee.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        # After every step, or the average would lag behind the checkpoint it is saved with.
        self.average.update(self.trainee, self.progress.step)
        return losses

    def save(self) -> None:
        path, stable = self.folder / "checkpoint.pt", self.folder / "stable.pt"
        checkpoint.save(path, self.progress, self.trainee, self.average, self.optimizers)
        if learning_rate(self.progress, self.length_s) >= _RATE or not stable.exists():
            shutil.copyfile(path, stable)
        self.saved_s = self.progress.seconds

    def log(self, phase: Phase, losses: model.Losses, rate: float) -> None:
        record = {
            **vars(self.progress),
            "name": phase.name,
            "rate": rate,
            "text": losses.text.item(),
            "phone": losses.phone.item(),
            "guide": losses.guide.item(),
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def train(self) -> None:
        """Until the run's time is over."""
        for phase in PHASES:
            while self.progress.seconds < phase.until * self.length_s:
                self._pool(phase)
                self.progress.pool += 1
        self.save()

    def _pool(self, phase: Phase) -> None:
        # Shards written since the last pool join in, so training need not wait for all data.
        self.clips.refresh()
        progress, began = self.progress, time.monotonic()
        for batch in windows.batches(self.clips, self.targets, phase.mix, self.seed, progress.pool):
            rate = learning_rate(progress, self.length_s)
            losses = self.step(batch, rate)
            ended = time.monotonic()
            progress.step += 1
            progress.samples += len(batch.mel)
            progress.all_samples += len(batch.mel)
            progress.seconds += ended - began
            progress.all_seconds += ended - began
            began = ended
            if progress.step % _LOG_STEPS == 0:
                self.log(phase, losses, rate)
            if progress.seconds - self.saved_s > _SAVE_SECONDS:
                self.save()
            if progress.seconds > phase.until * self.length_s:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo speech model.")
    parser.add_argument("data", type=Path, help="folder made by training.speech.dataset")
    parser.add_argument("run", type=Path, help="folder for checkpoint and log")
    parser.add_argument("--minutes", type=float, default=100.0, help="length of the run")
    parser.add_argument("--init", type=Path, help="checkpoint to start a new run from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # Attention weights far from the guided span are denormal, and slow.
    torch.set_flush_denormal(True)
    length_s = arguments.minutes * 60.0
    Run(arguments.data, arguments.run, length_s, arguments.init, arguments.seed).train()


if __name__ == "__main__":
    main()
