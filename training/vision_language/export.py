"""Writes a checkpoint as a Hugging Face folder: `python -m training.vision_language.export`.

Weights are stored in bfloat16 to halve the file; config.json says float32, so that the library
computes in float32 unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from training.vision_language.intents import PRINTED
from training.vision_language.loop import load
from training.vision_language.model import build
from training.vision_language.pixels import MAX_PIXELS, MEAN, MIN_PIXELS, STD
from training.vision_language.tokenizer import (
    CHAT_TEMPLATE,
    VOCABULARY,
    load_tokenizer,
    special_ids,
)

PRODUCT = Path("demo_models/demo-vl")
WORK = Path(".cache/training/vision_language")


def write_model(checkpoint: Path, target: Path) -> None:
    """Writes weights, config.json and generation_config.json."""
    ids = special_ids()
    model = build(VOCABULARY, ids)
    load(checkpoint, {"model": model})
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=160,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    model.bfloat16().save_pretrained(target)
    say_float32(target / "config.json")


def say_float32(path: Path) -> None:
    """Sets the computing dtype in a config file, at the top and in its parts."""
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_processor(target: Path) -> None:
    """Writes preprocessor_config.json; the sizes are areas in pixels."""
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(target)


def write_words(target: Path) -> None:
    """Writes words.txt, the words that are spelt, and read best, one a line."""
    (target / "words.txt").write_text("\n".join(PRINTED) + "\n")


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Writes tokenizer and chat template, without the traces of where it was loaded from."""
    # The kept tokenizer may be older than the template.
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    kept = {key: value for key, value in config.items() if "local" not in key}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def export(work: Path, product: Path) -> None:
    """Writes everything beside the product, then swaps file by file."""
    product.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as name:
        fresh = Path(name)
        write_model(work / "dialogue.pt", fresh)
        write_processor(fresh)
        write_tokenizer(load_tokenizer(work), fresh)
        write_words(fresh)
        for path in sorted(fresh.iterdir()):
            # save_pretrained leaves weights readable by their owner alone.
            path.chmod(0o644)
            os.replace(path, product / path.name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WORK)
    parser.add_argument("--to", type=Path, default=PRODUCT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    export(options.folder, options.to)


if __name__ == "__main__":
    main()
