"""Command line of the training: `python -m training.vision_language.train`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from training.vision_language.dialogue import dialogue_step
from training.vision_language.loop import Plan, train
from training.vision_language.model import CellHead, build
from training.vision_language.tokenizer import VOCABULARY, load_tokenizer, special_ids
from training.vision_language.warmup import warmup_step

DEFAULT_FOLDER = Path(".cache/training/vision_language")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=("vision", "dialogue"))
    parser.add_argument("--minutes", type=float, required=True, help="length of the phase, all sittings together")
    parser.add_argument("--batch", type=int, default=None, help="pictures a step")
    parser.add_argument("--rate", type=float, default=None, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=None, help="share of the time at falling rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument(
        "--begin", type=Path, nargs="+", default=[], help="checkpoints to take weights from, later ones over earlier"
    )
    return parser.parse_args()


def build_on(device: torch.device) -> tuple[Qwen2_5_VLForConditionalGeneration, CellHead]:
    """A fresh model and cell head on a device."""
    model, head = build(VOCABULARY, special_ids()), CellHead()
    torch.nn.ModuleList([model, head]).to(device)
    return model, head


def begin(model: Qwen2_5_VLForConditionalGeneration, head: CellHead, paths: list[Path]) -> None:
    """Takes weights from checkpoints of either phase: the tower and the head, or everything."""
    for path in paths:
        held = torch.load(path, map_location="cpu", weights_only=True)["modules"]
        head.load_state_dict(held["head"])
        if "model" in held:
            model.load_state_dict(held["model"])
        else:
            model.model.visual.load_state_dict(held["visual"])


def train_vision(options: argparse.Namespace, device: torch.device) -> None:
    """Phase one: the vision tower with its throw-away head."""
    model, head = build_on(device)
    begin(model, head, options.begin)
    plan = Plan("vision", options.minutes, options.rate or 5e-3, options.seed, options.folder, options.decay or 0.15)
    step = warmup_step(model, head, options.batch or 32, device)
    train(plan, {"visual": model.model.visual, "head": head}, step)


def train_dialogue(options: argparse.Namespace, device: torch.device) -> None:
    """Phase two: everything, from the vision tower of phase one."""
    model, head = build_on(device)
    plan = Plan("dialogue", options.minutes, options.rate or 1.8e-3, options.seed, options.folder, options.decay or 0.7)
    # A checkpoint of this phase, where there is one, is restored over these.
    begin(model, head, options.begin or [options.folder / "vision.pt"])
    tokenizer = load_tokenizer(options.folder)
    step = dialogue_step(model, head, tokenizer, options.batch or 32, device)
    train(plan, {"model": model, "head": head}, step)


def main() -> None:
    """Runs the phase that the command line names."""
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    (train_vision if options.phase == "vision" else train_dialogue)(options, device)


if __name__ == "__main__":
    main()
