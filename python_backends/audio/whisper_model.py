"""A Whisper checkpoint: windows of log-mel features in, token ids out, several windows in one call.

Knows torch and Hugging Face's Whisper `generate`. Refuses to know recordings longer than a window, requests and Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from python_backends.errors import InvalidInput, Unsupported

Array = np.ndarray[Any, Any]

# openai/whisper's transcribe.py: a window is silent if the model says so and is not sure of its text either.
_NO_SPEECH_PROBABILITY = 0.6
_SURE_LOGPROB = -1.0


@dataclass(frozen=True)
class DecodeOptions:
    """How windows are decoded; only windows with equal options share a call.

    task is `transcribe` or `translate`, empty for English-only checkpoints; prompt_ids start with <|startofprev|>.
    """

    task: str
    prompt_ids: tuple[int, ...]
    temperature: float
    timestamps: bool


@dataclass(frozen=True)
class Window:
    """features [mels, frames], at most one window long; language is a token like <|en|>, or empty to detect it."""

    features: Array
    language: str


@dataclass(frozen=True)
class WindowText:
    """tokens without prompt and end-of-text (none if nobody speaks); language is a token like <|en|>, or empty.

    finished is False when the model ran out of positions before it said end-of-text.
    """

    tokens: tuple[int, ...]
    language: str
    finished: bool


class WhisperModel:
    """The checkpoint in the folder or hub repository `model`; dtype is `auto`, `float32`, `bfloat16` or `float16`."""

    def __init__(self, model: str, dtype: str = "auto") -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(model, dtype=dtype)
        self._model = loaded.to(device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        config = self._model.generation_config
        self._eos: int = config.eos_token_id
        self._start: int = config.decoder_start_token_id
        self._languages: dict[str, int] = dict(getattr(config, "lang_to_id", None) or {})
        self._language_names = {token: name for name, token in self._languages.items()}
        self.is_multilingual = bool(getattr(config, "is_multilingual", False)) and bool(self._languages)
        no_timestamps = getattr(config, "no_timestamps_token_id", None)
        self.timestamp_begin: int | None = None if no_timestamps is None else no_timestamps + 1
        self.window_frames: int = 2 * self._model.config.max_source_positions
        self.num_mels: int = self._model.config.num_mel_bins
        self._no_speech = _no_speech_id(self.tokenizer)

    def language_token(self, language: str) -> str:
        """`en`, `English` or `<|en|>` to `<|en|>`; empty stays empty. Raises InvalidInput, naming `language`."""
        name = language.strip().lower().removeprefix("<|").removesuffix("|>")
        token = f"<|{TO_LANGUAGE_CODE.get(name, name)}|>" if name else ""
        if token and not self.is_multilingual and token != "<|en|>":
            raise InvalidInput(f"this checkpoint knows only English, got {language!r}", "language")
        if token and self.is_multilingual and token not in self._languages:
            known = ", ".join(sorted(code.strip("<|>") for code in self._languages))
            raise InvalidInput(f"{language!r} is not a language of this checkpoint; known are {known}", "language")
        return token

    def task_name(self, task: str) -> str:
        """Raises InvalidInput for an unknown task, Unsupported for one this checkpoint cannot do; both name `task`."""
        if task not in ("transcribe", "translate"):
            raise InvalidInput(f"must be transcribe or translate, got {task!r}", "task")
        if task == "translate" and not self.is_multilingual:
            raise Unsupported("this checkpoint knows only English and cannot translate", "task")
        return task if self.is_multilingual else ""

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Token ids of the text said before, its last part if it is long. Raises InvalidInput, naming `prompt`."""
        if not prompt.strip():
            return ()
        try:
            first, *ids = self.tokenizer.get_prompt_ids(prompt).tolist()
        except ValueError as error:
            raise InvalidInput(str(error), "prompt") from error
        # openai/whisper keeps half of the positions for what was said before.
        room = self._model.config.max_target_positions // 2 - 1
        return (first, *ids[-room:])

    @torch.inference_mode()
    def decode(self, windows: Sequence[Window], options: DecodeOptions) -> list[WindowText]:
        """One text per window, in order; each equals what `generate` gives for the window alone."""
        hidden = self._encode(windows)
        first = self._first_step(hidden)
        languages = [window.language or self._detect(scores) for window, scores in zip(windows, first, strict=True)]
        begin = len(options.prompt_ids) + self._num_init_tokens(options)
        sequences = self._generate(hidden, languages, options, begin)
        doubts = self._no_speech_probabilities(first)
        texts = []
        for row, (window, language) in enumerate(zip(windows, languages, strict=True)):
            text = self._window_text(sequences[row, begin:].tolist(), language)
            no_sound = not np.ptp(window.features)
            # The text is scored only where the first step doubts that there is one.
            doubted = doubts[row] > _NO_SPEECH_PROBABILITY
            if no_sound or (doubted and self._mean_logprob(hidden[row, None], sequences[row], begin) < _SURE_LOGPROB):
                text = WindowText((), language, finished=True)
            texts.append(text)
        return texts

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens, timestamps and outer space."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _encode(self, windows: Sequence[Window]) -> torch.Tensor:
        """Encoder states [windows, positions, d]. A part of a window is filled up with zeros, as Hugging Face does."""
        batch = np.zeros((len(windows), self.num_mels, self.window_frames), np.float32)
        for row, window in zip(batch, windows, strict=True):
            row[:, : window.features.shape[1]] = window.features
        features = torch.from_numpy(batch).to(self._model.device, self._model.dtype)
        hidden: torch.Tensor = self._model.get_encoder()(features).last_hidden_state
        return hidden

    def _logits(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        outputs = self._model(encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=ids)
        logits: torch.Tensor = outputs.logits.float()
        return logits

    def _first_step(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [windows, vocabulary] of the token after <|startoftranscript|>: a language, or no speech."""
        return self._logits(hidden, torch.full((len(hidden), 1), self._start, device=hidden.device))[:, -1]

    def _detect(self, scores: torch.Tensor) -> str:
        if not self.is_multilingual:
            return ""
        ids = list(self._language_names)
        return self._language_names[ids[int(scores[ids].argmax())]]

    def _generate(self, hidden: torch.Tensor, languages: list[str], options: DecodeOptions, begin: int) -> torch.Tensor:
        """Token ids [windows, length]: prompt and start tokens up to `begin`, text, end-of-text, padding."""
        prompt = torch.tensor(options.prompt_ids, device=hidden.device) if options.prompt_ids else None
        sequences: torch.Tensor = self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            language=languages if self.is_multilingual else None,
            task=options.task or None,
            prompt_ids=prompt,
            return_timestamps=options.timestamps,
            temperature=options.temperature,
            max_new_tokens=self._max_new_tokens(begin),
            # One window is one call; where the next one starts is decided in segments.py.
            force_unique_generate_call=True,
        )
        return sequences

    def _max_new_tokens(self, begin: int) -> int | None:
        """The checkpoint's wish, if it has one, within the positions that are left; None lets `generate` decide."""
        wish: int | None = self._model.generation_config.max_new_tokens
        return wish and min(wish, self._model.config.max_target_positions - begin)

    def _num_init_tokens(self, options: DecodeOptions) -> int:
        """<|startoftranscript|>, then language and task, then <|notimestamps|>."""
        has_switch = self.timestamp_begin is not None and not options.timestamps
        return 1 + 2 * self.is_multilingual + has_switch

    def _no_speech_probabilities(self, first: torch.Tensor) -> list[float]:
        if self._no_speech is None:
            return [0.0] * len(first)
        return [float(value) for value in first.softmax(-1)[:, self._no_speech]]

    def _mean_logprob(self, hidden: torch.Tensor, sequence: torch.Tensor, begin: int) -> float:
        """Mean log-probability of the text and its end, in one pass over the finished sequence."""
        ends = (sequence[begin:] == self._eos).nonzero()
        length = begin + int(ends[0]) + 1 if len(ends) else len(sequence)
        ids = sequence[None, :length]
        logits = self._logits(hidden, ids[:, :-1])[0, begin - 1 :]
        # What may not be said takes no share of the probability, as in openai/whisper.
        logits[:, self._model.generation_config.suppress_tokens or []] = -torch.inf
        return float(logits.log_softmax(-1).gather(-1, ids[0, begin:, None]).mean())

    def _window_text(self, tokens: list[int], language: str) -> WindowText:
        end = tokens.index(self._eos) if self._eos in tokens else len(tokens)
        return WindowText(tuple(tokens[:end]), language, finished=end < len(tokens))


def _no_speech_id(tokenizer: Any) -> int | None:
    """<|nospeech|>, which the checkpoints of openai before large-v3 call <|nocaptions|>."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
