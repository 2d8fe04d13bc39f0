"""Batches of 30 s windows that cost no more than the speech in them.

A window places stored clips at positions of the 1,500; everything else is digital silence. All
silent positions hold the same frame and differ only by their position, so instead of all of them a
batch keeps a random few and gives each the attention bias log(silent / kept): the expected softmax
is that of the full window at a tenth of the cost. With ``pads`` >= 1500 nothing is left out.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperTokenizer

from training.speech import features, tokenizer
from training.speech.dataset import UNKNOWN_PHONE, Clips, StoredClip

POSITIONS = 1500
MASKED = -1e9
IGNORED = -100

_SECONDS = POSITIONS * features.POSITION_SECONDS
_BATCH_POSITIONS = 4200
_POOL_BATCHES = 24
_CUT_SHARE = 0.1


@dataclass(frozen=True)
class Mix:
    """Shares of window shapes, and how many silent positions are kept (0: no window around)."""

    pads: int
    moved: float = 0.15
    several: float = 0.22
    long: float = 0.04
    silent: float = 0.04
    sentences: float = 0.0
    timestamps: float = 0.4
    batch: int = 16


@dataclass(frozen=True)
class Window:
    """Clips with their first positions, in order of time and without overlap."""

    placed: list[tuple[StoredClip, int]]
    timestamps: bool

    @property
    def positions(self) -> int:
        return sum(clip.positions for clip, _ in self.placed)


@dataclass
class Batch:
    """Tensors of one step. T counts the kept positions, B x T; L the target tokens, B x L."""

    mel: Tensor  # [B, 80, 2 * blocks]
    padding: Tensor  # [B] mel value of digital silence
    positions: Tensor  # [B, T] index into the 1,500
    bias: Tensor  # [B, T] attention bias of each key
    phones: Tensor  # [B, blocks]
    input_ids: Tensor  # [B, L]
    labels: Tensor  # [B, L]
    spans: Tensor  # [B, L, 2] first and last position where the label is spoken; -1 for none

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


class Targets:
    """Token ids of a window's transcript, with the positions where each is spoken."""

    def __init__(self, vocabulary: WhisperTokenizer) -> None:
        prompt = (tokenizer.START, tokenizer.ENGLISH, tokenizer.TRANSCRIBE)
        self.prompt = [tokenizer.token_id(vocabulary, token) for token in prompt]
        self.end = tokenizer.token_id(vocabulary, tokenizer.END)
        self.no_speech = tokenizer.token_id(vocabulary, tokenizer.NO_SPEECH)
        self.no_timestamps = tokenizer.token_id(vocabulary, tokenizer.NO_TIMESTAMPS)
        self.begin = tokenizer.timestamp_begin(vocabulary)
        self._words: dict[str, int] = {}
        self._vocabulary = vocabulary

    def _word(self, word: str) -> int:
        if word not in self._words:
            self._words[word] = tokenizer.token_id(self._vocabulary, tokenizer.SPACE + word)
        return self._words[word]

    def _stamp(self, seconds: float) -> int:
        return self.begin + min(round(seconds / features.POSITION_SECONDS), POSITIONS)

    def _segments(self, window: Window) -> list[tuple[int, float, float]]:
        tokens: list[tuple[int, float, float]] = []
        for clip, first in window.placed:
            shift = first * features.POSITION_SECONDS
            for segment in clip.segments:
                start, end = segment[0].start + shift, segment[-1].end + shift
                spoken = [(self._word(w.name), w.start + shift, w.end + shift) for w in segment]
                if window.timestamps:
                    # A boundary is heard just around itself; 0.1 s keeps the next word out.
                    opening = (self._stamp(start), start - 0.1, start + 0.1)
                    closing = (self._stamp(end), end - 0.1, end + 0.1)
                    # As in the Whisper paper, a segment that the window cuts off shows only its
                    # start: the next window is then moved there.
                    whole = end <= _SECONDS
                    spoken = [opening, *spoken, closing] if whole else [opening]
                tokens += [token for token in spoken if token[2] <= _SECONDS + 0.1]
        if window.timestamps and not tokens:
            tokens = [(self.begin, -1.0, -1.0)]
        return tokens

    def __call__(self, window: Window) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Input ids, labels and spans of equal length."""
        tokens = self._segments(window)
        speech = any(clip.segments for clip, _ in window.placed)
        mode = [] if window.timestamps else [self.no_timestamps]
        ids = [*self.prompt, *mode, *(token for token, _, _ in tokens), self.end]
        labels = ids[1:]
        # generate forces the language, but language detection reads this position.
        labels[0] = self.prompt[1] if speech else self.no_speech
        # Whether timestamps follow is the caller's choice: there is nothing to learn about it.
        if not window.timestamps:
            labels[2] = IGNORED
        spans = [(-1, -1)] * (len(self.prompt) + len(mode) - 1)
        spans += [_positions(start, end) for _, start, end in tokens] + [(-1, -1)]
        return ids[:-1], labels, spans


def _positions(start: float, end: float) -> tuple[int, int]:
    if end < 0:
        return -1, -1
    step = features.POSITION_SECONDS
    return max(0, math.floor(start / step)), math.ceil(end / step)


def draw(clips: Clips, mix: Mix, rng: random.Random) -> Window:
    """One window of a random shape."""
    timestamps = rng.random() < mix.timestamps
    shape = rng.random()
    sentences = rng.random() < mix.sentences
    long = clips.by_kind["long_sentences" if sentences else "long_digits"]
    if shape < mix.silent:
        placed = [(rng.choice(clips.by_kind["silence"]), 0)]
    elif shape < mix.silent + mix.long and long:
        placed = [(rng.choice(long), 0)]
    else:
        short = clips.by_kind["sentence" if sentences else "digits"]
        spread = shape - mix.silent - mix.long
        count = rng.choice((2, 2, 2, 3, 3, 4, 5, 6)) if spread < mix.several else 1
        at_start = spread > mix.several + mix.moved
        placed = _scatter([rng.choice(short) for _ in range(count)], at_start, rng)
    return Window(placed, timestamps)


def _scatter(chosen: list[StoredClip], at_start: bool,
             rng: random.Random) -> list[tuple[StoredClip, int]]:
    """Clips with random pauses of at least half a second; those that do not fit are dropped."""
    if at_start:
        return [(chosen[0], 0)]
    # Shorter pauses occur inside a spoken string and would make its end a matter of luck.
    least = 25
    while sum(clip.positions + least for clip in chosen) > POSITIONS:
        chosen = chosen[:-1]
    free = POSITIONS - sum(clip.positions + least for clip in chosen)
    cuts = sorted(rng.randint(0, free) for _ in chosen)
    placed, used = [], 0
    for clip, cut in zip(chosen, cuts, strict=True):
        placed.append((clip, cut + used))
        used += clip.positions + least
    if rng.random() < _CUT_SHARE:
        placed[-1] = _cut_off(*placed[-1], rng)
    return placed


def _cut_off(clip: StoredClip, first: int, rng: random.Random) -> tuple[StoredClip, int]:
    """The clip moved to the end of the window, so that some of it is outside."""
    first = max(first, POSITIONS - rng.randint(1, clip.positions))
    inside = POSITIONS - first
    return (clip.cut_at(inside) if inside < clip.positions else clip), first


def collate(windows: list[Window], targets: Targets, pads: int, rng: random.Random) -> Batch:
    """Stack windows; shorter ones are filled up with masked positions."""
    blocks = max(window.positions for window in windows)
    rows = [_row(window, blocks, pads, rng) for window in windows]
    texts = [targets(window) for window in windows]
    length = max(len(ids) for ids, _, _ in texts)
    mel, padding, positions, bias, phones = (np.stack(part) for part in zip(*rows, strict=True))
    return Batch(
        torch.from_numpy(mel).transpose(1, 2), torch.from_numpy(padding),
        torch.from_numpy(positions), torch.from_numpy(bias), torch.from_numpy(phones),
        torch.tensor([ids + [targets.end] * (length - len(ids)) for ids, _, _ in texts]),
        torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels, _ in texts]),
        torch.tensor([spans + [(-1, -1)] * (length - len(spans)) for _, _, spans in texts]),
    )


def _row(window: Window, blocks: int, pads: int, rng: random.Random) -> tuple[Any, ...]:
    values = features.restored(np.concatenate([clip.mel for clip, _ in window.placed]))
    padding = features.padding_value(float(values.max()))
    used = [range(first, first + clip.positions) for clip, first in window.placed]
    spoken = [position for span in used for position in span]
    free = sorted(set(range(POSITIONS)).difference(spoken)) if pads else []
    kept = free if len(free) <= pads else rng.sample(free, pads)
    width = blocks + min(pads, POSITIONS)
    mel = np.full((blocks * 2, features.MELS), padding, np.float32)
    # The extractor clamps at 8 below the loudest of the whole window, so quiet clips lose detail
    # beside loud ones.
    mel[: len(values)] = np.maximum(values, padding)
    positions, bias = np.zeros(width, np.int64), np.full(width, MASKED, np.float32)
    phones = np.full(blocks, UNKNOWN_PHONE, np.int64)
    positions[: len(spoken)], bias[: len(spoken)] = spoken, 0.0
    phones[: len(spoken)] = np.concatenate([clip.phones for clip, _ in window.placed])
    positions[blocks : blocks + len(kept)] = kept
    bias[blocks : blocks + len(kept)] = math.log(len(free) / len(kept)) if kept else 0.0
    return mel, np.array(padding, np.float32), positions, bias, phones


def batches(clips: Clips, targets: Targets, mix: Mix, seed: int, pool: int) -> Iterator[Batch]:
    """The batches of pool number ``pool``: alike in length inside a batch, in random order."""
    rng = random.Random(seed * 1_000_003 + pool)
    windows = [draw(clips, mix, rng) for _ in range(mix.batch * _POOL_BATCHES)]
    # Sorting a pool and cutting it up keeps masked filling small; the groups are then shuffled so
    # that the order of lengths teaches nothing.
    windows.sort(key=lambda window: window.positions)
    groups: list[list[Window]] = [[]]
    for window in windows:
        group = groups[-1]
        wide = (len(group) + 1) * (window.positions + mix.pads) > _BATCH_POSITIONS
        if group and (len(group) == mix.batch or wide):
            groups.append(group := [])
        group.append(window)
    rng.shuffle(groups)
    return (collate(group, targets, mix.pads, rng) for group in groups)
