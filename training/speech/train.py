"""Train the demo speech model: ``python -m training.speech.train DATA RUN``.

Knows the phases and their order. A run writes ``checkpoint.pt`` and ``log.jsonl`` to its folder and
goes on from the checkpoint when started again; ``--init`` starts a plan from other weights.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from training.speech import checkpoint, model, tokenizer, windows
from training.speech.dataset import Clips
from training.speech.windows import Mix

_WARM_UP_STEPS = 100
_LOG_STEPS = 50
_SAVE_STEPS = 100


@dataclass(frozen=True)
class Phase:
    """Training on one mix while the learning rate goes linearly from ``first`` to ``last``."""

    name: str
    samples: int
    first: float
    last: float
    mix: Mix


# Attention forms on clips alone; the window around them, and several clips in it, come after.
_ALIGN = Mix(pads=0, moved=0.0, several=0.0, long=0.0, silent=0.0)
_MAIN = Mix(pads=16, moved=0.25, several=0.08, long=0.01, silent=0.03)
_WINDOW = Mix(pads=32, moved=0.15, several=0.4, long=0.04, timestamps=0.5)
_FULL = Mix(pads=1500, several=0.35, long=0.05, silent=0.05, batch=8)

PLANS = {
    "digits": [
        Phase("align", 6_000, 2e-3, 2e-3, _ALIGN),
        Phase("main", 28_000, 2e-3, 1.6e-3, _MAIN),
        Phase("window", 26_000, 1.6e-3, 1.5e-4, _WINDOW),
        Phase("full", 160, 1.5e-4, 1e-5, _FULL),
    ],
    # Started from a finished "digits" run with --init, for late and several strings.
    "more": [
        Phase("window", 18_000, 1e-3, 1e-4, _WINDOW),
        Phase("full", 240, 1e-4, 1e-5, _FULL),
    ],
}


def learning_rate(phase: Phase, samples: int, step: int) -> float:
    share = min(1.0, samples / phase.samples)
    rate = phase.first + (phase.last - phase.first) * share
    return rate * min(1.0, (step + 1) / _WARM_UP_STEPS)


class Run:
    """One training run in a folder."""

    def __init__(self, data: Path, folder: Path, seed: int, init: Path | None) -> None:
        torch.manual_seed(seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.folder, self.seed, self.clips = folder, seed, Clips(data)
        vocabulary = tokenizer.build()
        self.targets = windows.Targets(vocabulary)
        whisper = model.create(vocabulary)
        self.trainee = model.Trainee(whisper, len(self.clips.inventory)).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.trainee.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05
        )
        self.progress = checkpoint.Progress()
        self._restore(init)

    def _restore(self, init: Path | None) -> None:
        saved = self.folder / "checkpoint.pt"
        source = saved if saved.exists() else init
        state = checkpoint.load(source) if source else None
        if state:
            self.trainee.load_state_dict(state["model"])
        self.average = checkpoint.Average(self.trainee)
        if state:
            self.average.values = {k: v.to(self.device) for k, v in state["average"].items()}
            # Fresh moments at a full learning rate undo some of what was learned.
            self.optimizer.load_state_dict(state["optimizer"])
            before = checkpoint.Progress(**state["progress"])
            new = checkpoint.Progress(step=before.step, total=before.total, seconds=before.seconds)
            self.progress = before if source == saved else new

    def step(self, batch: windows.Batch, rate: float) -> model.Losses:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses: model.Losses = self.trainee(batch.to(self.device))
        self.optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        self.optimizer.step()
        # After every step, or the average would lag behind the checkpoint it is saved with.
        self.average.update(self.trainee, self.progress.step)
        return losses

    def save(self) -> None:
        path = self.folder / "checkpoint.pt"
        checkpoint.save(path, self.progress, self.trainee, self.average, self.optimizer)

    def log(self, phase: Phase, losses: model.Losses, rate: float) -> None:
        record = {
            **vars(self.progress), "name": phase.name, "rate": rate, "text": losses.text.item(),
            "phone": losses.phone.item(), "guide": losses.guide.item(),
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def train(self, phases: list[Phase]) -> None:
        while self.progress.phase < len(phases):
            phase = phases[self.progress.phase]
            if self.progress.samples >= phase.samples:
                self.progress.phase, self.progress.samples = self.progress.phase + 1, 0
                self.save()
            else:
                self._pool(phase)

    def _pool(self, phase: Phase) -> None:
        # Shards written since the last pool join in, so training need not wait for all data.
        self.clips.refresh()
        progress = self.progress
        for batch in windows.batches(
            self.clips, self.targets, phase.mix, self.seed, progress.pool
        ):
            started = time.monotonic()
            rate = learning_rate(phase, progress.samples, progress.step)
            losses = self.step(batch, rate)
            progress.step += 1
            progress.samples += len(batch.mel)
            progress.total += len(batch.mel)
            progress.seconds += time.monotonic() - started
            if progress.step % _LOG_STEPS == 0:
                self.log(phase, losses, rate)
            if progress.step % _SAVE_STEPS == 0:
                self.save()
            if progress.samples >= phase.samples:
                break
        progress.pool += 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo speech model.")
    parser.add_argument("data", type=Path, help="folder made by training.speech.dataset")
    parser.add_argument("run", type=Path, help="folder for checkpoint and log")
    parser.add_argument("--plan", default="digits", choices=sorted(PLANS))
    parser.add_argument("--init", type=Path, help="checkpoint to start a new run from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random.seed(arguments.seed)
    Run(arguments.data, arguments.run, arguments.seed, arguments.init).train(PLANS[arguments.plan])


if __name__ == "__main__":
    main()
