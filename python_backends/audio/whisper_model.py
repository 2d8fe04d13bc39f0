"""A Whisper checkpoint: its network, its tokenizer, and what its special tokens mean.

Knows torch and Hugging Face's Whisper. Refuses to know slots, recordings, requests and Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from python_backends.audio.fused import FusedEncoder, can_fuse
from python_backends.audio.windows import DecodeOptions, Thresholds, Window
from python_backends.errors import InvalidInput, Unsupported
from python_backends.torch_engine.linear import pack_linears
from python_backends.whole_attention import WHOLE_ATTENTION

Array = np.ndarray[Any, Any]


class WhisperModel:
    """The checkpoint in the folder or hub repository `model`; dtype is `auto`, `float32`, `bfloat16` or `float16`."""

    def __init__(self, model: str, dtype: str = "auto") -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(model, dtype=dtype)
        self.network: Any = loaded.to(device).eval()
        encoder = self.network.get_encoder()
        pack_linears(encoder, "none", rows=self.network.config.max_source_positions)
        pack_linears(self.network, "none", apart="encoder_attn")
        self.network.set_attn_implementation(WHOLE_ATTENTION)
        self._fused = FusedEncoder(encoder) if can_fuse(encoder) and encoder.dtype == torch.bfloat16 else None
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        config = self.network.generation_config
        self.eos: int = config.eos_token_id
        self.start: int = config.decoder_start_token_id
        self.languages: dict[str, int] = dict(getattr(config, "lang_to_id", None) or {})
        self.is_multilingual = bool(getattr(config, "is_multilingual", False)) and bool(self.languages)
        self._tasks: dict[str, int] = dict(getattr(config, "task_to_id", None) or {})
        self._no_timestamps: int | None = getattr(config, "no_timestamps_token_id", None)
        self.timestamp_begin: int | None = None if self._no_timestamps is None else self._no_timestamps + 1
        self.window_frames: int = 2 * self.network.config.max_source_positions
        self.num_mels: int = self.network.config.num_mel_bins
        self.num_positions: int = self.network.config.max_target_positions
        self.vocab_size: int = self.network.config.vocab_size
        self.no_speech = _no_speech_id(self.tokenizer)

    @property
    def thresholds(self) -> Thresholds:
        """Those that the checkpoint's generation_config names, the usual ones for the others."""
        config, names = self.network.generation_config, [each.name for each in fields(Thresholds)]
        return Thresholds(**{name: getattr(config, name, getattr(Thresholds, name)) for name in names})

    @property
    def previous(self) -> int | None:
        """<|startofprev|>, if the checkpoint knows it."""
        known: int | None = getattr(self.network.generation_config, "prev_sot_token_id", None)
        return self.tokenizer.get_vocab().get("<|startofprev|>") if known is None else known

    def language_token(self, language: str) -> str:
        """`en`, `English` or `<|en|>` to `<|en|>`; empty stays empty. Raises InvalidInput, naming `language`."""
        name = language.strip().lower().removeprefix("<|").removesuffix("|>")
        token = f"<|{TO_LANGUAGE_CODE.get(name, name)}|>" if name else ""
        if token and not self.is_multilingual and token != "<|en|>":
            raise InvalidInput(f"this checkpoint knows only English, got {language!r}", "language")
        if token and self.is_multilingual and token not in self.languages:
            known = ", ".join(sorted(code.strip("<|>") for code in self.languages))
            raise InvalidInput(f"{language!r} is not a language of this checkpoint; known are {known}", "language")
        return token

    @staticmethod
    def language_name(token: str) -> str:
        """<|en|> to `english`; the code itself for a language that the library has no name for."""
        code = token.strip("<|>")
        return str(LANGUAGES.get(code, code))

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
        return (first, *ids[-self.prompt_room :])

    @property
    def prompt_room(self) -> int:
        """Tokens of earlier text beside <|startofprev|>: openai/whisper keeps half of the positions for them."""
        return self.num_positions // 2 - 1

    def start_ids(self, language: str, options: DecodeOptions) -> tuple[int, ...]:
        """<|startoftranscript|>, then language and task, then <|notimestamps|>."""
        about = (self.languages[language], self._tasks[options.task]) if self.is_multilingual else ()
        plain = () if self._no_timestamps is None or options.timestamps else (self._no_timestamps,)
        return (self.start, *about, *plain)

    def max_length(self, begin: int) -> int:
        """Tokens a window may have in all, of which `begin` come before its text, as `generate` counts them."""
        config = self.network.generation_config
        if config.max_new_tokens is not None:
            return min(begin + int(config.max_new_tokens), self.num_positions)
        wish = self.num_positions if config.max_length is None else int(config.max_length)
        return min(wish + min(begin, self.prompt_room), self.num_positions)

    def text(self, tokens: Sequence[int]) -> str:
        """Without special tokens and timestamps; the space before the first word is kept."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def encode(self, windows: Sequence[Window]) -> torch.Tensor:
        """Encoder states [windows, positions, d]. A part of a window is filled up with zeros, as Hugging Face does."""
        batch = np.zeros((len(windows), self.num_mels, self.window_frames), np.float32)
        for row, window in zip(batch, windows, strict=True):
            row[:, : window.features.shape[1]] = window.features
        features = torch.from_numpy(batch).to(self.network.device, self.network.dtype)
        if self._fused is not None:
            return torch.stack([self._fused(part) for part in features])
        # On CPU one after the other: what a window's layers hand on stays in the processor's cache.
        size = len(windows) if features.is_cuda else 1
        encoder = self.network.get_encoder()
        return torch.cat([encoder(part).last_hidden_state for part in torch.split(features, size)])

    def detect(self, scores: torch.Tensor) -> str:
        """The likeliest language by the scores [vocabulary] of the token after <|startoftranscript|>."""
        ids = list(self.languages.values())
        return list(self.languages)[int(scores[ids].argmax())]


def _no_speech_id(tokenizer: Any) -> int | None:
    """<|nospeech|>, which the checkpoints of openai before large-v3 call <|nocaptions|>."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))
