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
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperTokenizer

from training.speech import features, texts, tokenizer
from training.speech.dataset import UNKNOWN_PHONE, Clips, StoredClip
from training.speech.warps import Warp

POSITIONS = 1500
MASKED = -1e9
IGNORED = -100

_SECONDS = POSITIONS * features.POSITION_SECONDS
_POOL_BATCHES = 24
# Windows that lose their end, and clips that lose their beginning, as in long recordings.
_CUT_END, _CUT_BEGINNING = 0.2, 0.05
_LONGEST_PROMPT = 30
# Clips in a window that has several.
_COUNTS = (2, 2, 2, 3, 3, 4, 5, 6)
_WARP = Warp()


@dataclass(frozen=True)
class Mix:
    """Shares of window shapes, and how many silent positions are kept (0: no window around)."""

    pads: int
    moved: float = 0.2
    several: float = 0.2
    most: int = 6
    long: float = 0.015
    silent: float = 0.04
    timestamps: float = 0.45
    german: float = 0.18
    translated: float = 0.5
    prompted: float = 0.1
    batch: int = 32
    batch_positions: int = 7000


@dataclass(frozen=True)
class Window:
    """Clips with their first positions, in order of time and without overlap.

    ``previous`` are the words of a ``<|startofprev|>`` prompt.
    """

    placed: list[tuple[StoredClip, int]]
    language: str
    timestamps: bool
    translate: bool = False
    previous: tuple[str, ...] = ()

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


# A token with the seconds in which it is heard.
Heard = tuple[int, float, float]
_UNHEARD = (-1.0, -1.0)


class Targets:
    """Token ids of a window's transcript, with the positions where each is spoken."""

    def __init__(self, vocabulary: WhisperTokenizer) -> None:
        ids = partial(tokenizer.token_id, vocabulary)
        self.start, self.end = ids(tokenizer.START), ids(tokenizer.END)
        self.languages = {name: ids(f"<|{name}|>") for name in texts.LANGUAGES}
        self.tasks = (ids(tokenizer.TRANSCRIBE), ids(tokenizer.TRANSLATE))
        self.previous = ids(tokenizer.PREVIOUS)
        self.no_speech = ids(tokenizer.NO_SPEECH)
        self.no_timestamps = ids(tokenizer.NO_TIMESTAMPS)
        self.begin = tokenizer.timestamp_begin(vocabulary)
        self.word = {word: ids(tokenizer.word_token(word)) for word in texts.words()}

    def _stamp(self, seconds: float) -> Heard:
        number = self.begin + min(round(seconds / features.POSITION_SECONDS), POSITIONS)
        # A boundary is heard just around itself; 0.1 s keeps the next word out.
        return number, seconds - 0.1, seconds + 0.1

    def _segment(self, clip: StoredClip, index: int, shift: float, window: Window) -> list[Heard]:
        segment, translation = clip.segments[index], clip.translations[index]
        times = [(word.start + shift, word.end + shift) for word in segment]
        spoken = [(self.word[w.name], *time) for w, time in zip(segment, times, strict=True)]
        if window.translate and translation:
            spoken = [(self.word[w], *(times[i] if i >= 0 else _UNHEARD)) for w, i in translation]
        if window.timestamps:
            opening, closing = self._stamp(times[0][0]), self._stamp(times[-1][1])
            # As in the Whisper paper, a segment that the window cuts off shows only its start: the
            # next window is then moved there.
            return [opening, *spoken, closing] if times[-1][1] <= _SECONDS else [opening]
        return [token for token in spoken if token[2] <= _SECONDS + 0.1]

    def _segments(self, window: Window) -> list[Heard]:
        tokens: list[Heard] = []
        for clip, first in window.placed:
            shift = first * features.POSITION_SECONDS
            for index in range(len(clip.segments)):
                tokens += self._segment(clip, index, shift, window)
        if window.timestamps and not tokens:
            tokens = [(self.begin, *_UNHEARD)]
        return tokens

    def __call__(self, window: Window) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Input ids, labels and spans of equal length."""
        tokens = self._segments(window)
        speech = any(clip.segments for clip, _ in window.placed)
        language, task = self.languages[window.language], self.tasks[window.translate]
        before = [self.word[word] for word in window.previous]
        before = [self.previous, *before] if before else []
        mode = [] if window.timestamps else [self.no_timestamps]
        prompt = [*before, self.start, language, task, *mode]
        ids = [*prompt, *(token for token, _, _ in tokens), self.end]
        labels = ids[1:]
        # What the caller chooses is not to be learned; but generate reads the language, or that
        # nobody speaks, from the position after the start.
        labels[: len(prompt) - 1] = [IGNORED] * (len(prompt) - 1)
        labels[len(before)] = language if speech else self.no_speech
        spans = [(-1, -1)] * (len(prompt) - 1)
        spans += [_positions(start, end) for _, start, end in tokens] + [(-1, -1)]
        return ids[:-1], labels, spans


def _positions(start: float, end: float) -> tuple[int, int]:
    if end < 0:
        return -1, -1
    step = features.POSITION_SECONDS
    return max(0, math.floor(start / step)), math.ceil(end / step)


def draw(clips: Clips, mix: Mix, rng: random.Random) -> Window:
    """One window of a random shape."""
    placed = _placed(clips, mix, rng)
    language = placed[0][0].language
    translatable = all(all(clip.translations) for clip, _ in placed)
    # To translate English is to write it down.
    share = 0.03 if language == "en" else mix.translated
    translate = (translatable or language == "en") and rng.random() < share
    previous: tuple[str, ...] = ()
    if rng.random() < mix.prompted:
        earlier = rng.choice(clips.by_kind["en" if translate else language])
        previous = tuple(word.name for words in earlier.segments for word in words)
    return Window(placed, language, rng.random() < mix.timestamps, translate, previous[:_LONGEST_PROMPT])


def _placed(clips: Clips, mix: Mix, rng: random.Random) -> list[tuple[StoredClip, int]]:
    shape = rng.random()
    if shape < mix.silent:
        return [(rng.choice(clips.by_kind["silence"]), 0)]
    if shape < mix.silent + mix.long:
        return [(rng.choice(clips.by_kind["long"]), 0)]
    language = "de" if rng.random() < mix.german else "en"
    spread = shape - mix.silent - mix.long
    count = min(mix.most, rng.choice(_COUNTS)) if spread < mix.several else 1
    chosen = rng.choices(clips.by_kind[language], k=count)
    if count == 1 and rng.random() < _CUT_BEGINNING:
        chosen = [chosen[0].cut_before(rng.random())]
    return _scatter(chosen, spread > mix.several + mix.moved, rng)


def _scatter(chosen: list[StoredClip], at_start: bool, rng: random.Random) -> list[tuple[StoredClip, int]]:
    """Clips with random pauses of at least 0.4 s; those that do not fit are dropped."""
    if at_start:
        return [(chosen[0], 0)]
    # Shorter pauses occur inside a spoken string and would make its end a matter of luck.
    least = 20
    while sum(clip.positions + least for clip in chosen) > POSITIONS:
        chosen = chosen[:-1]
    free = POSITIONS - sum(clip.positions + least for clip in chosen)
    # Half of the windows are close talk, as sentences that follow each other are.
    free = rng.choice((free, min(free, 100 * len(chosen))))
    cuts = sorted(rng.randint(0, free) for _ in chosen)
    placed, used = [], 0
    for clip, cut in zip(chosen, cuts, strict=True):
        placed.append((clip, cut + used))
        used += clip.positions + least
    if rng.random() < _CUT_END:
        placed[-1] = _cut_off(*placed[-1], rng)
    return placed


def _cut_off(clip: StoredClip, first: int, rng: random.Random) -> tuple[StoredClip, int]:
    """The clip moved to the end of the window, so that some of it is outside."""
    first = max(first, POSITIONS - rng.randint(1, clip.positions))
    inside = POSITIONS - first
    return (clip.cut_at(inside) if inside < clip.positions else clip), first


def collate(windows: list[Window], targets: Targets, pads: int, rng: random.Random) -> Batch:
    """Stack windows, each heard in its own way; shorter ones are filled up with masked positions."""
    blocks = max(window.positions for window in windows)
    noises = np.random.default_rng(rng.getrandbits(64))
    rows = [_row(window, blocks, pads, rng, noises) for window in windows]
    texts = [targets(window) for window in windows]
    length = max(len(ids) for ids, _, _ in texts)
    mel, padding, positions, bias, phones = (np.stack(part) for part in zip(*rows, strict=True))
    return Batch(
        torch.from_numpy(mel).transpose(1, 2),
        torch.from_numpy(padding),
        torch.from_numpy(positions),
        torch.from_numpy(bias),
        torch.from_numpy(phones),
        torch.tensor([ids + [targets.end] * (length - len(ids)) for ids, _, _ in texts]),
        torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels, _ in texts]),
        torch.tensor([spans + [(-1, -1)] * (length - len(spans)) for _, _, spans in texts]),
    )


def _row(window: Window, blocks: int, pads: int, rng: random.Random, noises: np.random.Generator) -> tuple[Any, ...]:
    values = features.restored(np.concatenate([clip.mel for clip, _ in window.placed]))
    values = _WARP(values, noises)
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
        wide = (len(group) + 1) * (window.positions + mix.pads) > mix.batch_positions
        if group and (len(group) == mix.batch or wide):
            groups.append(group := [])
        group.append(window)
    rng.shuffle(groups)
    return (collate(group, targets, mix.pads, rng) for group in groups)
