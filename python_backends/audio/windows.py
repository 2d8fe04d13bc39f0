"""The nouns of decoding: a window of log-mel to be written down, how, and what was heard in it.

Plain data; knows neither torch nor Triton.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Tried in turn while a text is doubted: those of openai/whisper's transcribe.py.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class DecodeOptions:
    """How the windows of a recording are decoded.

    task is `transcribe` or `translate`, empty for English-only checkpoints; prompt_ids start with <|startofprev|>.
    Each of `temperatures` is tried until a text is not doubted; the last one is taken as it is. `seed` makes what is
    drawn repeatable also where the first temperature is above 0.
    """

    task: str = ""
    prompt_ids: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = (0.0,)
    timestamps: bool = False
    word_timestamps: bool = False
    condition_on_previous_text: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class Window:
    """features [mels, frames], at most one window long, of which the first num_frames hold sound.

    language is a token like <|en|>, or empty to detect it; prompt_ids are what the decoder is told to have written
    before. `seek` is the window's first frame in the recording.
    """

    features: Array
    num_frames: int
    language: str
    prompt_ids: tuple[int, ...]
    options: DecodeOptions
    seek: int = 0


@dataclass(frozen=True)
class Word:
    """start and end in seconds of the window; `place` is the index of its first token in the window's tokens."""

    text: str
    start: float
    end: float
    place: int


@dataclass(frozen=True)
class WindowText:
    """tokens without prompt and end-of-text (none if nobody speaks), and the log-probability of each.

    avg_logprob also counts the end-of-text; no_speech_prob is the model's first thought. language is a token like
    <|en|>, or empty. finished is False when the model ran out of positions before it said end-of-text.
    """

    tokens: tuple[int, ...]
    text: str
    language: str
    finished: bool
    logprobs: tuple[float, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    words: tuple[Word, ...] = ()

    @property
    def compression_ratio(self) -> float:
        """Of the text by zlib, as openai/whisper reports it: a high ratio means that it repeats itself."""
        return _compression_ratio(self.text.strip().encode())


@dataclass(frozen=True)
class Thresholds:
    """When a text is doubted, and when a window is taken for silent: the rules of transformers' `_need_fallback`.

    The names are those of its generation_config, None switches a rule off, and the values are those that its
    documentation recommends. Here the ratio is that of the token ids, with the end-of-text if there is one.
    """

    compression_ratio_threshold: float | None = 1.35
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    def doubt(self, ids: Sequence[int], vocab_size: int, avg_logprob: float) -> bool:
        """Worth another try at a higher temperature: going round in circles, or unsure."""
        limit = self.compression_ratio_threshold
        return (limit is not None and token_compression_ratio(ids, vocab_size) > limit) or self._unsure(avg_logprob)

    def silent(self, no_speech_prob: float, avg_logprob: float) -> bool:
        """The model thinks that nobody speaks, and is not sure of its text either."""
        limit = self.no_speech_threshold
        return limit is not None and no_speech_prob > limit and self._unsure(avg_logprob)

    def _unsure(self, avg_logprob: float) -> bool:
        return self.logprob_threshold is not None and avg_logprob < self.logprob_threshold


def token_compression_ratio(ids: Sequence[int], vocab_size: int) -> float:
    """By zlib of the ids, each in as many bytes as the vocabulary needs."""
    width = int(math.log2(vocab_size) / 8) + 1
    return _compression_ratio(b"".join(token.to_bytes(width, "little") for token in ids))


def _compression_ratio(data: bytes) -> float:
    return len(data) / len(zlib.compress(data)) if data else 0.0
