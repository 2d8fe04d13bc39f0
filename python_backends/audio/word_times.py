"""When each word was said: the decoder's cross-attention, aligned by dynamic time warping.

The method is find_alignment of openai/whisper's timing.py; warping, filter and the split into words are transformers'.
A word lasts from where the attention of the token before it begins to where that of its own last token does: so do the
words of transformers' pipeline with `return_timestamps="word"`, made of the token times of `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from python_backends.audio.segments import FRAMES_PER_SECOND, FRAMES_PER_TIMESTAMP, SECONDS_PER_TIMESTAMP
from python_backends.audio.slot_decoder import Listening, SlotDecoder
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.windows import DecodeOptions, Window, Word

# Quieter than this share of the way from the quietest to the loudest is between words.
_QUIET_SHARE = 0.25
_LONGEST_PAUSE_FRAMES = 40

Heads = Sequence[tuple[int, int]]


class WordTimer:
    """Finds words in the windows of `slots`."""

    def __init__(self, model: WhisperModel, slots: SlotDecoder, heads: Heads = ()) -> None:
        """`heads` are (layer, head) pairs, layers also counted from the end; none stands for the checkpoint's own."""
        self._model = model
        self._slots = slots
        config = model.network.config
        layers, num_heads = config.decoder_layers, config.decoder_attention_heads
        known = heads or getattr(model.network.generation_config, "alignment_heads", None) or ()
        for layer, head in known:
            if not (-layers <= layer < layers and 0 <= head < num_heads):
                raise ValueError(f"alignment_heads: there is no head {head} in layer {layer} of this checkpoint")
        # Without a list, openai/whisper listens to every head of the upper half of the layers.
        upper = [(layer, head) for layer in range(layers // 2, layers) for head in range(num_heads)]
        self._heads = [(layer % layers, head) for layer, head in known] or upper
        self._filter_width: int = config.median_filter_width

    def words(self, slot: int, window: Window, language: str, tokens: Sequence[int]) -> tuple[Word, ...]:
        """The words of the window in `slot`, whose tokens (with timestamps, if any) are these."""
        places = [place for place, token in enumerate(tokens) if token < self._model.eos]
        said = [tokens[place] for place in places]
        # Less than two moments cannot be told apart.
        if not said or window.num_frames < 2 * FRAMES_PER_TIMESTAMP:
            return ()
        times = self._times(slot, window, language, said)
        texts, _, indices = self._split(said, language)
        ends = [group[-1] + 1 for group in indices]
        sounding = _sounding(window)
        return tuple(
            Word(text, *_without_quiet(sounding, times[group[0]], times[end]), places[group[0]])
            for text, group, end in zip(texts, indices, ends, strict=True)
        )

    def _times(self, slot: int, window: Window, language: str, said: list[int]) -> np.ndarray[Any, Any]:
        """Seconds at which each token begins, and at which the text ends: [tokens + 1]."""
        start = self._model.start_ids(language, DecodeOptions(window.options.task, timestamps=False))
        listening = Listening(self._heads, window.num_frames // FRAMES_PER_TIMESTAMP)
        # A text that fills all positions has none left for its end.
        ids = [*start, *said, self._model.eos][: self._model.num_positions]
        self._slots.forward(slot, torch.tensor([ids], device=self._model.network.device), [0], listening)
        weights = listening.weights
        deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
        matrix = _median_filter((weights - mean) / deviation.clamp_min(1e-8), self._filter_width).mean(dim=0)
        # A token is chosen while its predecessor is read, so its row is the one before; the last row finds the end.
        matrix = matrix[len(start) - 1 : len(start) + len(said)]
        rows, moments = _dynamic_time_warping(-matrix.double().cpu().numpy())
        begins = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
        times: np.ndarray[Any, Any] = moments[begins] * SECONDS_PER_TIMESTAMP
        return times

    def _split(self, said: list[int], language: str) -> tuple[list[str], list[list[int]], list[list[int]]]:
        """Words, the tokens of each, and where those are in `said`."""
        name = self._model.language_name(language or "<|en|>")
        texts, tokens, indices = _combine_tokens_into_words(self._model.tokenizer, said, name)
        return texts, tokens, indices


def _sounding(window: Window) -> np.ndarray[Any, Any]:
    """Of each frame of the window, whether some mel band is loud in it."""
    loudest = window.features[:, : window.num_frames].max(axis=0)
    low, high = np.percentile(loudest, (5, 95))
    sounding: np.ndarray[Any, Any] = loudest > low + _QUIET_SHARE * (high - low)
    return sounding


def _without_quiet(sounding: np.ndarray[Any, Any], start: float, end: float) -> tuple[float, float]:
    """Seconds without the quiet at both ends: a pause has no row of its own, so the warping gives it to a word.

    No word has a long pause inside: then what comes before it belongs to the word before.
    """
    first, last = round(start * FRAMES_PER_SECOND), round(end * FRAMES_PER_SECOND)
    loud = np.flatnonzero(sounding[first:last])
    if not len(loud):
        return float(start), float(end)
    pauses = np.flatnonzero(np.diff(loud) > _LONGEST_PAUSE_FRAMES)
    begin = loud[pauses[-1] + 1] if len(pauses) else loud[0]
    return (first + int(begin)) / FRAMES_PER_SECOND, (first + int(loud[-1]) + 1) / FRAMES_PER_SECOND
