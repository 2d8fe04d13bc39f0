"""From the same pixels to the same tokens: image_frontend, vision_encoder, prompt and engine against transformers."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from python_backends.engine import EngineOptions, create_engine
from python_backends.llm.feature_cache import ImageFeatures
from python_backends.llm.prompt import Prompt, Prompter
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent
from python_backends.vision.encoder import VisionEncoder
from python_backends.vision.processor import PixelProcessor
from tests.backends.vision import tiny

NUM_TOKENS = 10
MARKS = ("<start_of_image>", "<end_of_image>")


def text(family: str) -> str:
    mark = tiny.MARKS[family]
    return f"<s><user>see {mark} and\n{mark}: which?<reply>"


def pictures() -> list[Image.Image]:
    numbers = np.random.default_rng(5)
    return [Image.fromarray(numbers.integers(0, 256, (h, w, 3), np.uint8)) for w, h in [(130, 70), (56, 60)]]


def oracle(folder: Path) -> tuple[list[int], list[int]]:
    """Prompt and greedy answer by transformers' own processor and `generate`."""
    config: Any = hf.AutoConfig.from_pretrained(folder)
    whole: Any = getattr(hf, PROCESSOR_MAPPING_NAMES[config.model_type])

    class WithoutVideos(whole):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    images: Any = hf.AutoImageProcessor
    parts = [images.from_pretrained(folder, backend="pil"), hf.AutoTokenizer.from_pretrained(folder)]
    missing = [None] * (len(whole.get_attributes()) - len(parts))
    processor = WithoutVideos.from_args_and_dict([*parts, *missing], whole.get_processor_dict(folder)[0])
    kinds = {"return_mm_token_type_ids": True} if config.model_type.startswith("qwen") else {}
    made = processor(text=[text(folder.name)], images=pictures(), return_tensors="pt", **kinds)
    model: Any = hf.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    made.pop("rows", None), made.pop("cols", None)
    with torch.inference_mode():
        output = model.generate(**made, max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=2)
    length = made["input_ids"].shape[1]
    return output[0, :length].tolist(), output[0, length:].tolist()


def prompt_of(folder: Path) -> Prompt:
    """As the entries make it, with both images in one forward of the encoder."""
    processor, encoder = PixelProcessor(str(folder)), VisionEncoder(str(folder), "float32")
    inputs = [processor(image) for image in pictures()]
    features = [
        ImageFeatures(found, tuple(each.grid.tolist()), bytes([number]), each.prompt)
        for number, (each, found) in enumerate(zip(inputs, encoder.encode(inputs), strict=True))
    ]
    prompter = Prompter(str(folder))
    return prompter.expand(prompter.from_text(text(folder.name)), features)


def answers(folder: Path, prompt: Prompt, times: int) -> list[list[int]]:
    """Greedy tokens of the engine; the second time from its prefix cache."""
    engine = create_engine("torch", EngineOptions(str(folder), dtype="float32", max_model_len=512, max_num_seqs=2))
    sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    found = []
    try:
        for number in range(times):
            events: queue.Queue[TokenEvent] = queue.Queue()
            engine.submit(GenerationRequest(number, prompt.ids, sampling, prompt.images), events.put)
            tokens: list[int] = []
            while True:
                event = events.get(timeout=60)
                if event.error is not None:
                    raise event.error
                tokens += [] if event.token_id is None else [event.token_id]
                if event.finish_reason is not None:
                    break
            found.append(tokens)
    finally:
        engine.close()
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_same_pixels_same_tokens(family: str, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, family, std=0.15)
    ids, answer = oracle(folder)
    prompt = prompt_of(folder)
    assert list(prompt.ids) == ids
    assert prompt.num_image_tokens == ids.count(5)
    assert answers(folder, prompt, 2) == [answer, answer]
    assert len(set(answer)) > 2, "a text that repeats one token shows little"


def test_text_meets_the_line_breaks_of_an_image_and_typed_marks_stay_text(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "gemma3")
    prompter = Prompter(str(folder))
    [start, end, two, three] = (prompter.tokenizer.convert_tokens_to_ids(token) for token in (*MARKS, "\n\n", "\n\n\n"))
    stands = f"\n\n{MARKS[0]}{tiny.IMAGE * 4}{MARKS[1]}\n\n"
    image = ImageFeatures(np.zeros((4, 32), np.float32), (1, 4, 4), b"", stands)
    a, b, line = ([*prompter.from_text(letter)] for letter in ("a", "b", "\n"))
    made = prompter.expand([*a, *line, start, *line, *b], [image])
    assert made.ids == (*a, three, start, 5, 5, 5, 5, end, three, *b)
    assert [(span.start, span.end) for span in made.images] == [(3, 7)]
    typed = prompter._plain.encode(MARKS[1]).ids
    made = prompter.expand([*typed, *line, start, *b], [image])
    assert made.ids == (*typed, *line, two, start, 5, 5, 5, 5, end, two, *b)
