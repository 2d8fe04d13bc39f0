"""Images beside the prompt (Llama 3.2 Vision) against `generate`, token for token: random weights, float32, greedy."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from python_backends.errors import InvalidInput
from python_backends.features import Array
from python_backends.torch_engine.engine import TorchEngine
from python_backends.types import GenerationRequest, ImageSpan
from tests.backends.families import EOS, MAX_LEN, Family, Picture, Prompt, picture, text_prompt
from tests.backends.test_torch_engine import GREEDY, NUM_TOKENS, Listener, check_equal, run, running
from tests.backends.vision.tiny import open_gates
from tests.backends.vision_server import Vision, served

# It has an embedding and no row in the head, as in the checkpoints of this family.
IMAGE, MAX_TILES, SIDE = 97, 4, 8
_TEXT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "cross_attention_layers": [1, 3],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LEN,
    "initializer_range": 0.3,
    "eos_token_id": EOS,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_global_layers": 1,
    "attention_heads": 2,
    "intermediate_size": 16,
    "vision_output_dim": 32,
    "image_size": SIDE,
    "patch_size": 4,
    "intermediate_layers_indices": [0],
    "initializer_range": 0.3,
}


class Seeing(Family):
    """A checkpoint whose layers 1 and 3 attend to images."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = "mllama", folder
        torch.manual_seed(4)
        config = hf.MllamaConfig(text_config=_TEXT, vision_config=_VISION, image_token_index=IMAGE)
        model: Any = hf.MllamaForConditionalGeneration(config)
        open_gates(model)
        model.save_pretrained(folder)
        self.model = hf.MllamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.generate = cache(self._generate)

    @property
    def bytes_per_token(self) -> int:
        return 2 * 2 * 2 * 8 * 4

    def spans(self, prompt: Prompt) -> tuple[ImageSpan, ...]:
        starts = [place for place, token in enumerate(prompt.ids) if token == IMAGE]
        return tuple(self.span(start, each) for start, each in zip(starts, prompt.pictures, strict=True))

    def span(self, start: int, each: Picture) -> ImageSpan:
        digest = each.pixels.numpy().tobytes()[:64]
        return ImageSpan(start, self._states(each), (1, *layout(each)), digest, beside=True)

    def _states(self, each: Picture) -> Array:
        inner = self.model.model
        with torch.inference_mode():
            found = inner.multi_modal_projector(inner.vision_model(**pixels((each,))).last_hidden_state)
        return np.array(found.reshape(-1, 32))

    def _generate(self, prompt: Prompt, num_tokens: int) -> list[int]:
        ids = torch.tensor([prompt.ids])
        extra: dict[str, Any] = {}
        if prompt.pictures:
            who = [get_cross_attention_token_mask(list(prompt.ids), IMAGE)]
            tiles = [[int(np.prod(layout(each))) for each in prompt.pictures]]
            mask = convert_sparse_cross_attention_mask_to_dense(who, tiles, MAX_TILES, len(prompt.ids))
            extra = {**pixels(prompt.pictures), "cross_attention_mask": torch.tensor(mask)}
        with torch.inference_mode():
            output = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, **extra
            )
        return list(output[0, ids.shape[1] :].tolist())


def layout(each: Picture) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return (1, 2) if each.grid[1] == each.grid[2] else (3, 1)


def pixels(pictures: tuple[Picture, ...]) -> dict[str, torch.Tensor]:
    """What the family's image processor makes."""
    layouts = hf.MllamaConfig().vision_config.supported_aspect_ratios
    values = torch.zeros(1, len(pictures), MAX_TILES, 3, SIDE, SIDE)
    mask = torch.zeros(1, len(pictures), MAX_TILES, dtype=torch.long)
    for place, each in enumerate(pictures):
        size = int(np.prod(layout(each)))
        drawn = each.pixels.flatten()[: size * 3 * SIDE * SIDE]
        values[0, place, :size] = drawn.view(size, 3, SIDE, SIDE)
        mask[0, place, :size] = 1
    ids = torch.tensor([[layouts.index(list(layout(each))) + 1 for each in pictures]])
    return {"pixel_values": values, "aspect_ratio_ids": ids, "aspect_ratio_mask": mask}


def chat(*parts: Prompt | Picture) -> Prompt:
    ids: list[int] = []
    for part in parts:
        ids += part.ids if isinstance(part, Prompt) else (IMAGE,)
    return Prompt(tuple(ids), tuple(part for part in parts if isinstance(part, Picture)))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    return Seeing(tmp_path_factory.mktemp("mllama"))


def prompts_of(count: int) -> list[Prompt]:
    """With no image, with one after some text or at the start, with two apart or side by side."""
    text = [text_prompt(seed, 1 + seed * 17 % 30) for seed in range(count)]
    kinds = [
        lambda seed: text[seed],
        lambda seed: chat(text[seed], picture(seed), text_prompt(70 + seed, 3)),
        lambda seed: chat(picture(seed, 2, 6), text[seed]),
        lambda seed: chat(text_prompt(80, 2), picture(seed), text[seed], picture(seed + 50, 2, 6), text_prompt(90, 4)),
        lambda seed: chat(text_prompt(81, 3), picture(seed), picture(seed + 60, 2, 6), text[seed]),
    ]
    return [kinds[seed % len(kinds)](seed) for seed in range(count)]


def test_images_change_what_is_said_also_by_the_text_before_them(family: Seeing) -> None:
    said = [family.generate(prompt, NUM_TOKENS) for prompt in prompts_of(10)]
    assert len({tuple(tokens) for tokens in said}) == 10
    assert len({token for tokens in said for token in tokens}) >= 15
    start = text_prompt(1, 6)
    assert family.generate(chat(start, picture(1)), 4) != family.generate(chat(start, picture(2)), 4)


def test_alone(family: Seeing) -> None:
    with running(family) as engine:
        assert engine._model.image_problem == ""
        for prompt in prompts_of(5):
            check_equal(family, [prompt], run(engine, family, [prompt]))


def test_twenty_at_once_with_and_without_images(family: Seeing) -> None:
    prompts = prompts_of(20)
    with running(family) as engine:
        check_equal(family, prompts, run(engine, family, prompts))
        assert not engine._runner._images, "nothing of an image stays"


@pytest.mark.parametrize("budget", [1, 5])
def test_in_chunks(family: Seeing, budget: int) -> None:
    prompts = prompts_of(5)
    with running(family, max_num_batched_tokens=budget) as engine:
        check_equal(family, prompts, run(engine, family, prompts))


@pytest.mark.parametrize("caching", [True, False])
def test_after_preemption(family: Seeing, caching: bool) -> None:
    prompts = prompts_of(15)
    longest = max(len(prompt.ids) for prompt in prompts) + NUM_TOKENS
    options = {"kv_cache_bytes": longest * family.bytes_per_token, "enable_prefix_caching": caching}
    with running(family, max_num_batched_tokens=16, **options) as engine:
        check_equal(family, prompts, run(engine, family, prompts))
        assert engine.scheduler.num_preemptions, "the cache was large enough for all"


def test_a_prefix_is_shared_only_with_the_same_images(family: Seeing) -> None:
    start, question = text_prompt(1, 10), text_prompt(2, 6)
    first, other = chat(start, picture(1), question), chat(start, picture(2), question)
    two = chat(start, picture(1), question, picture(2), question)
    with running(family) as engine:
        found = [run(engine, family, [prompt])[0] for prompt in (first, other, two, first)]
        check_equal(family, [first, other, two, first], found)
        assert [listener.num_cached for listener in found] == [0, 0, 0, len(first.ids) - 1]
        longer = Prompt((*first.ids, *found[0].tokens, *text_prompt(9, 5).ids), first.pictures)
        check_equal(family, [longer], [again := run(engine, family, [longer])[0]])
    assert again.num_cached == len(first.ids) + len(found[0].tokens) - 1


def test_several_sequences_of_a_prompt_share_its_images(family: Seeing) -> None:
    prompt = prompts_of(4)[3]
    listeners = [Listener() for _ in range(3)]
    with running(family) as engine:
        sampling = dataclasses.replace(GREEDY, n=3)
        engine.submit(
            GenerationRequest(0, prompt.ids, sampling, family.spans(prompt)),
            lambda event: listeners[event.index](event),
        )
        check_equal(family, [prompt] * 3, [listener.wait() for listener in listeners])


def test_features_are_fetched_also_where_the_cache_has_all_tokens(family: Seeing) -> None:
    prompt = prompts_of(2)[1]
    [span] = family.spans(prompt)
    vision = Vision(lambda image: (np.array(span.features), span.grid))
    with served(vision, 0) as client, running(family) as engine:
        for number in range(2):
            [found] = client.features([b"1"])
            image = ImageSpan(span.start, found.features, found.grid, found.digest, beside=True)
            engine.submit(GenerationRequest(number, prompt.ids, GREEDY, (image,)), listener := Listener())
            check_equal(family, [prompt], [listener.wait()])
    assert (listener.num_cached, vision.asked) == (len(prompt.ids) - 1, [b"1", b"1"])


def refused(engine: TorchEngine, span: ImageSpan) -> Any:
    engine.submit(GenerationRequest(0, (5, IMAGE, 6), GREEDY, (span,)), listener := Listener())
    return listener.wait().events[-1].error


def test_states_that_are_not_those_of_tiles_are_refused(family: Seeing) -> None:
    span = family.span(1, picture(1))
    with running(family) as engine:
        for wrong in ({"grid": (1, 2, 3)}, {"grid": (1, 0, 1)}, {"features": np.zeros((7, 32), np.float32)}):
            error = refused(engine, dataclasses.replace(span, **wrong))
            assert isinstance(error, InvalidInput) and error.field == "image_grid"


def test_penalties_and_bfloat16_take_a_token_that_the_head_lacks(family: Seeing) -> None:
    prompt = prompts_of(2)[1]
    sampling = dataclasses.replace(GREEDY, repetition_penalty=1.3, logprobs=True, top_logprobs=3)
    with running(family, dtype="bfloat16", max_num_batched_tokens=4) as engine:
        assert engine._model.image_problem == ""
        [listener] = run(engine, family, [prompt], sampling)
    assert listener.events[-1].error is None and max(listener.tokens) < 96
