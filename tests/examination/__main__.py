"""Examines checkpoints and prints the table, without asserting anything.

    python -m tests.examination --model demo_models/demo-vl --speech-model demo_models/demo-whisper

With --base-url the running system is asked too, the one that `./trimodal serve` has started on the same checkpoints.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path

import openai

from tests.examination.examine import examine_chat, examine_speech
from tests.examination.recordings import HELD_OUT_VOICE
from tests.examination.results import Result, rows, table
from tests.examination.served import Served

MODELS = Path(__file__).resolve().parents[2] / "demo_models"


def main(words: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(words)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    served = Served(openai.OpenAI(base_url=options.base_url, api_key="none")) if options.base_url else None
    if options.only != "speech":
        started = time.monotonic()
        _show(examine_chat(options.model, seed, served, options.share), options.mistakes, started)
    if options.only != "vision":
        started, voice = time.monotonic(), options.held_out_voice
        found = examine_speech(options.speech_model, seed, voice, served, options.share)
        _show(found, options.mistakes, started)


def _show(results: Sequence[Result], num_mistakes: int, started: float) -> None:
    print(f"\n{table(results)}\n({time.monotonic() - started:.0f} s)", flush=True)
    for row in rows(results).values():
        for line in row.wrong()[:num_mistakes]:
            print(f"{row.name}: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.examination", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODELS / "demo-vl", help="folder of the chat checkpoint")
    parser.add_argument("--speech-model", type=Path, default=MODELS / "demo-whisper", help="folder of the other one")
    parser.add_argument("--seed", type=int, help="repeats an examination; a fresh one by default")
    parser.add_argument("--only", choices=("vision", "speech"), help="one of the two models")
    parser.add_argument("--base-url", help="ask the running system too, such as http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--held-out-voice", default=HELD_OUT_VOICE, help="a voice of espeak-ng that training never used"
    )
    parser.add_argument("--share", type=float, default=1.0, help="a shorter paper, such as 0.2")
    parser.add_argument("--mistakes", type=int, default=0, help="show so many wrong answers of each kind")
    return parser


if __name__ == "__main__":
    main()
