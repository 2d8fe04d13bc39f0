"""Scores the exported model and writes its card: `python -m training.vision_language.evaluate`.

The folder is loaded as a user would; an answer is right only if it equals the expected text.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch

from training.vision_language.card import Score, write_card
from training.vision_language.cases import all_cases
from training.vision_language.export import PRODUCT, WORK
from training.vision_language.runner import Runner


def evaluate(folder: Path, seed: int, size: int, misses: Path) -> dict[str, Score]:
    """Right and asked per kind; every miss goes to a JSON-lines file."""
    runner = Runner(folder)
    scores: dict[str, Score] = defaultdict(lambda: Score(0, 0))
    with misses.open("w") as log:
        for case in all_cases(seed, size):
            got = runner.answer(case.messages, case.pictures, case.tools or None)
            # No normalising: the forms are fixed, so anything else is a miss.
            right = got == case.expected
            before = scores[case.kind]
            scores[case.kind] = Score(before.right + right, before.asked + 1)
            if not right:
                question = case.messages[-1]["content"]
                line = {"kind": case.kind, "asked": question, "got": got, "truth": case.expected}
                log.write(json.dumps(line) + "\n")
    return dict(scores)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=PRODUCT)
    parser.add_argument("--folder", type=Path, default=WORK, help="log of the training")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--size", type=int, default=200, help="scales the number of cases")
    parser.add_argument("--no-card", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores = evaluate(options.model, options.seed, options.size, options.folder / "misses.jsonl")
    for kind, score in scores.items():
        print(f"{kind:36s} {score.right:5d} / {score.asked:<5d} {score.share:6.1%}")
    if not options.no_card:
        write_card(options.model, options.folder, scores, options.seed, options.size)


if __name__ == "__main__":
    main()
