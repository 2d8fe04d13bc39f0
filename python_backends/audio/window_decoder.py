"""Decodes windows step by step: each step says one token more of every running window; windows come and go between.

Knows torch and the model. Refuses to know recordings, queues and Triton. A window whose text is doubted is tried again
at the next temperature, in its slot. Texts equal those of transformers' `generate` for the window alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from python_backends.audio.slot_decoder import SlotDecoder
from python_backends.audio.token_rules import TokenRules, log_sum
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.windows import DecodeOptions, Window, WindowText
from python_backends.audio.word_times import Heads, WordTimer
from python_backends.turns import turns_on


@dataclass(eq=False)
class RunningWindow:
    """A window in a slot: ids are the start tokens (the first `begin` of them) and what was said so far."""

    window: Window
    language: str
    ids: list[int]
    begin: int
    max_length: int
    no_speech_prob: float
    generator: torch.Generator
    attempt: int = 0
    logprobs: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return self.ids[self.begin :]

    @property
    def temperature(self) -> float:
        return self.window.options.temperatures[self.attempt]

    def again(self) -> bool:
        """Back to the start tokens, one temperature higher; False when there is none."""
        if self.attempt + 1 >= len(self.window.options.temperatures):
            return False
        self.attempt += 1
        del self.ids[self.begin :]
        self.logprobs.clear()
        return True


class WindowDecoder:
    """At most `num_slots` windows at a time."""

    def __init__(self, model: WhisperModel, num_slots: int, alignment_heads: Heads = ()) -> None:
        self._model = model
        self._slots = SlotDecoder(model.network, num_slots)
        self._rules = TokenRules(model.network.generation_config)
        self._timer = WordTimer(model, self._slots, alignment_heads)
        self._thresholds = model.thresholds
        self._num_slots = num_slots
        self._turns = turns_on(model.network.device)
        self.running: list[RunningWindow] = []

    def __repr__(self) -> str:
        return f"<WindowDecoder {len(self.running)}/{self._num_slots} running>"

    @property
    def num_free(self) -> int:
        return self._num_slots - len(self.running)

    @torch.inference_mode()
    def start(self, windows: Sequence[Window]) -> list[RunningWindow]:
        """Encode the windows together and put each into a free slot."""
        first = len(self.running)
        with self._turns.turn():
            self._slots.hear(first, self._model.encode(windows))
            languages = self._languages(first, windows)
            for slot, (window, language) in enumerate(zip(windows, languages, strict=True), first):
                self.running.append(self._prefilled(slot, window, language))
        return self.running[first:]

    @torch.inference_mode()
    def step(self) -> list[tuple[RunningWindow, WindowText | Exception]]:
        """One token for every running window; those that are finished leave, with their text or what went wrong."""
        ids = torch.tensor([[window.ids[-1]] for window in self.running], device=self._model.network.device)
        starts = [len(window.ids) - 1 for window in self.running]
        with self._turns.turn():
            scores = self._slots.scores(self._slots.forward(0, ids, starts)[:, 0])
        self._rules.apply(
            scores,
            [window.tokens for window in self.running],
            [window.window.options.timestamps for window in self.running],
        )
        tokens = self._draw(scores)
        logprobs = (scores.gather(-1, tokens[:, None])[:, 0] - log_sum(scores)).tolist()
        for window, token, logprob in zip(self.running, tokens.tolist(), logprobs, strict=True):
            window.ids.append(token)
            window.logprobs.append(logprob)
        ended = [each for each in self.running if each.ids[-1] == self._model.eos or len(each.ids) >= each.max_length]
        return [(each, text) for each in ended if (text := self._left(each)) is not None]

    def rehearse(self) -> None:
        """Decode some silence: on CPU this compiles now what would be compiled in the first requests."""
        model = self._model
        options = DecodeOptions(
            task="transcribe" if model.is_multilingual else "", timestamps=model.timestamp_begin is not None
        )
        silence = np.zeros((model.num_mels, 1), np.float32)
        # One window and several: slices of one row and of more are compiled apart.
        for number in range(1, min(2, self._num_slots) + 1):
            self.start([Window(silence, 1, next(iter(model.languages), ""), (), options)] * number)
            for _ in range(2):
                self.step()
            for window in tuple(self.running):
                self.drop(window)

    def drop(self, window: RunningWindow) -> None:
        """Free the slot of a window; the last one moves into it, so that there is no gap."""
        slot, last = self.running.index(window), len(self.running) - 1
        if slot != last:
            self._slots.move(last, slot)
            self.running[slot] = self.running[last]
        self.running.pop()

    def _languages(self, first: int, windows: Sequence[Window]) -> list[str]:
        if not self._model.is_multilingual or all(window.language for window in windows):
            return [window.language for window in windows]
        start = torch.full((len(windows), 1), self._model.start, device=self._model.network.device)
        scores = self._slots.scores(self._slots.forward(first, start, [0] * len(windows))[:, 0])
        return [window.language or self._model.detect(row) for window, row in zip(windows, scores, strict=True)]

    def _prefilled(self, slot: int, window: Window, language: str) -> RunningWindow:
        start = self._model.start_ids(language, window.options)
        ids = [*window.prompt_ids, *start]
        hidden = self._slots.forward(slot, torch.tensor([ids], device=self._model.network.device), [0])
        first = self._slots.scores(hidden[0, len(window.prompt_ids)])
        no_speech = 0.0 if self._model.no_speech is None else float(first.softmax(-1)[self._model.no_speech])
        max_length = self._model.max_length(len(ids))
        return RunningWindow(window, language, ids, len(ids), max_length, no_speech, _generator(window))

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        """Token ids [rows]: the likeliest at temperature 0, else drawn."""
        tokens = scores.argmax(-1)
        for row, window in enumerate(self.running):
            if window.temperature > 0:
                chances = (scores[row] / window.temperature).softmax(-1).cpu()
                tokens[row] = torch.multinomial(chances, 1, generator=window.generator)[0]
        return tokens

    def _left(self, window: RunningWindow) -> WindowText | Exception | None:
        """What was said in a window, which leaves its slot; None when it is tried again."""
        try:
            text = self._text(window)
        except Exception as error:  # of one window alone; it ends the recording that the window is of
            self.drop(window)
            return error
        if text is not None:
            self.drop(window)
        return text

    def _text(self, window: RunningWindow) -> WindowText | None:
        text, limits = self._judged(window), self._thresholds
        silent = limits.silent(text.no_speech_prob, text.avg_logprob)
        doubted = limits.doubt(window.tokens, self._model.vocab_size, text.avg_logprob)
        # Whoever is silent is not asked again.
        if doubted and not silent and window.again():
            return None
        if silent or not np.ptp(window.window.features):
            return WindowText((), "", text.language, True, (), text.avg_logprob, text.no_speech_prob, text.temperature)
        if window.window.options.word_timestamps:
            words = self._timer.words(self.running.index(window), window.window, window.language, text.tokens)
            return dataclasses.replace(text, words=words)
        return text

    def _judged(self, window: RunningWindow) -> WindowText:
        finished = window.ids[-1] == self._model.eos
        tokens = window.tokens[:-1] if finished else window.tokens
        return WindowText(
            tokens=tuple(tokens),
            text=self._model.text(tokens),
            language=window.language,
            finished=finished,
            logprobs=tuple(window.logprobs[: len(tokens)]),
            avg_logprob=sum(window.logprobs) / len(window.logprobs),
            no_speech_prob=window.no_speech_prob,
            temperature=window.temperature,
        )


def _generator(window: Window) -> torch.Generator:
    """The same recording gives the same text, unless chance is asked for from the start."""
    options, generator = window.options, torch.Generator()
    if options.seed is None and options.temperatures[0] > 0:
        generator.seed()
    else:
        generator.manual_seed(((options.seed or 0) + window.seek) % 2**63)
    return generator
