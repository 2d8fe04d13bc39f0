"""Words and their times: what openai/whisper's method gives on the library's own attention weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.window_decoder import WindowDecoder
from python_backends.audio.word_times import _without_quiet
from tests.backends.audio import tiny_whisper
from tests.backends.audio.tiny_whisper import MELS, POSITIONS, WINDOW_FRAMES
from tests.backends.audio.windows import PLAIN, Array, decode, window

HEADS = [(0, 1), (1, 0)]
WORDS = replace(PLAIN, word_timestamps=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_whisper.save(tmp_path_factory.mktemp("whisper"))


def test_pauses_are_no_part_of_words() -> None:
    sounding = np.repeat([False, True, False, True, False, True], [10, 30, 100, 40, 20, 10])
    assert _without_quiet(sounding, 0.05, 1.0) == (0.1, 0.4)
    assert _without_quiet(sounding, 0.2, 1.9) == (1.4, 1.8), "a long pause inside: what is before it is another word's"
    assert _without_quiet(sounding, 1.5, 2.1) == (1.5, 2.1), "a short one belongs to the word"
    assert _without_quiet(sounding, 0.5, 0.9) == (0.5, 0.9), "nothing to go by"


def sound(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((MELS, WINDOW_FRAMES)).astype(np.float32)


def reference_times(
    folder: str, features: np.ndarray[Any, Any], start: tuple[int, ...], said: list[int]
) -> list[float]:
    """Times of all tokens and of the end, from the library's attention weights."""
    network: Any = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.tensor([[*start, *said, network.generation_config.eos_token_id][:POSITIONS]])
    with torch.no_grad():
        output = network(torch.from_numpy(features)[None], decoder_input_ids=ids, output_attentions=True)
    weights = torch.stack([output.cross_attentions[layer][0, head] for layer, head in HEADS])
    weights = (weights - weights.mean(-2, keepdim=True)) / weights.std(-2, keepdim=True, unbiased=False)
    matrix = _median_filter(weights, network.config.median_filter_width).mean(0)
    rows, moments = _dynamic_time_warping(-matrix[len(start) - 1 : len(start) + len(said)].double().numpy())
    return [float(moments[list(rows).index(row)]) * 0.02 for row in range(len(said) + 1)]


@pytest.mark.parametrize("timestamps", [False, True])
def test_times_follow_the_attention(folder: str, timestamps: bool) -> None:
    model = WhisperModel(folder)
    decoder = WindowDecoder(model, 2, HEADS)
    options = replace(WORDS, timestamps=timestamps)
    windows = [window(sound(seed), options=options) for seed in range(3)]
    for each, found in zip(windows, decode(decoder, windows), strict=True):
        said = [token for token in found.tokens if token < model.eos]
        times = reference_times(folder, each.features, model.start_ids("<|en|>", PLAIN), said)
        places = [place for place, token in enumerate(found.tokens) if token < model.eos]
        starts = [places.index(word.place) for word in found.words]
        assert "".join(word.text for word in found.words) == model.text(said)
        assert [word.start for word in found.words] == pytest.approx([times[place] for place in starts], abs=0.05)
        assert found.words[-1].end == pytest.approx(times[-1], abs=0.05)
        assert all(one.end <= other.start + 1e-6 for one, other in pairwise(found.words))
        assert all(found.tokens[word.place] < model.eos for word in found.words)


def test_nothing_said_and_no_time_have_no_words(folder: str) -> None:
    decoder = WindowDecoder(WhisperModel(folder), 1)
    silent, short = decode(
        decoder,
        [
            window(np.full((MELS, WINDOW_FRAMES), -1.5, np.float32), options=WORDS),
            replace(window(sound(1), options=WORDS), num_frames=2),
        ],
    )
    assert (silent.words, short.words) == ((), ())
    assert short.tokens


def test_heads_that_are_not_there_are_refused(folder: str) -> None:
    model = WhisperModel(folder)
    with pytest.raises(ValueError, match="no head 2 in layer 1"):
        WindowDecoder(model, 1, [(1, 2)])
    assert WindowDecoder(model, 1, [(-1, 1)])._timer._heads == [(1, 1)]


def test_heads_are_those_of_the_checkpoint_unless_they_are_given(folder: str) -> None:
    model = WhisperModel(folder)
    assert WindowDecoder(model, 1)._timer._heads == [(1, 0), (1, 1)], "all of the upper half of two layers"
    model.network.generation_config.alignment_heads = [[0, 1]]
    assert WindowDecoder(model, 1)._timer._heads == [(0, 1)]
    assert WindowDecoder(model, 1, HEADS)._timer._heads == HEADS
