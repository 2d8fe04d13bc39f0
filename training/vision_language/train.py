"""Command line of the training: `python -m training.vision_language.train`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from training.vision_language.dialogue import dialogue_step
from training.vision_language.loop import Plan, load, train
from training.vision_language.model import CellHead, build
from training.vision_language.tokenizer import VOCABULARY, load_tokenizer, special_ids
from training.vision_language.warmup import warmup_step

DEFAULT_FOLDER = Path(".cache/training/vision_language")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=("vision", "dialogue"))
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=None, help="pictures a step")
    parser.add_argument("--rate", type=float, default=None, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    return parser.parse_args()


def build_on(device: torch.device) -> tuple[Qwen2_5_VLForConditionalGeneration, CellHead]:
    """A fresh model and cell head on a device."""
    model, head = build(VOCABULARY, special_ids()), CellHead()
    torch.nn.ModuleList([model, head]).to(device)
    return model, head


def train_vision(options: argparse.Namespace, device: torch.device) -> None:
    """Phase one: the vision tower with its throw-away head."""
    model, head = build_on(device)
    plan = Plan("vision", options.steps, options.rate or 1.5e-3, options.seed, options.folder)
    step = warmup_step(model, head, options.batch or 32, device)
    train(plan, {"visual": model.model.visual, "head": head}, step)


def train_dialogue(options: argparse.Namespace, device: torch.device) -> None:
    """Phase two: everything, from the vision tower of phase one."""
    model, head = build_on(device)
    plan = Plan("dialogue", options.steps, options.rate or 1e-3, options.seed, options.folder)
    # A dialogue checkpoint holds the vision tower too, in a later state.
    if not (options.folder / "dialogue.pt").exists():
        load(options.folder / "vision.pt", {"visual": model.model.visual, "head": head})
    tokenizer = load_tokenizer(options.folder)
    step = dialogue_step(model, head, tokenizer, options.batch or 16, device)
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
