"""A Whisper checkpoint of random weights: 2 seconds a window, 64 positions, three languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

MELS, WINDOW_FRAMES, POSITIONS = 8, 200, 64
LANGUAGES = ("en", "de", "fr")
CONTROLS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{language}|>" for language in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]


def save(folder: Path, multilingual: bool = True, max_length: int = POSITIONS) -> str:
    tokenizer = _tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in CONTROLS}
    torch.manual_seed(11)
    model = WhisperForConditionalGeneration(_config(len(tokenizer), ids))
    with torch.no_grad():
        # Where timestamps are not asked for, a trained model does not say them.
        model.model.decoder.embed_tokens.weight[ids["<|endoftext|>"] + 1 :] *= 0.05
    model.generation_config = _generation_config(ids, multilingual, max_length)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _tokenizer() -> Any:
    """ASCII letters and the space, then the control tokens, then a timestamp for each 20 ms of a window."""
    letters = sorted(letter for letter in ByteLevel.alphabet() if letter.isascii() or letter == "\u0120")
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<|endoftext|>"])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": CONTROLS[1:]})
    tokenizer.add_tokens([f"<|{number * 0.02:.2f}|>" for number in range(WINDOW_FRAMES // 2 + 1)])
    return tokenizer


def _config(vocab_size: int, ids: dict[str, int]) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=vocab_size,
        num_mel_bins=MELS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=WINDOW_FRAMES // 2,
        max_target_positions=POSITIONS,
        init_std=0.2,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def _generation_config(ids: dict[str, int], multilingual: bool, max_length: int) -> GenerationConfig:
    only_multilingual: dict[str, Any] = {
        "lang_to_id": {f"<|{language}|>": ids[f"<|{language}|>"] for language in LANGUAGES},
        "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
    }
    return GenerationConfig(
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=WINDOW_FRAMES // 2,
        is_multilingual=multilingual,
        max_length=max_length,
        return_timestamps=False,
        **(only_multilingual if multilingual else {}),
    )
