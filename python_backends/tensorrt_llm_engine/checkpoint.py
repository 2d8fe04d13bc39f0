"""What the engine must know of a checkpoint beforehand. Weights are the library's own affair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from python_backends.engine import EngineOptions


@dataclass(frozen=True)
class Checkpoint:
    """`specials` are the special tokens by name; `has_grid_positions`: images are counted in two dimensions (mRoPE)."""

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    specials: Mapping[str, int]
    has_grid_positions: bool


def read_checkpoint(options: EngineOptions) -> Checkpoint:
    """Raises ValueError if the checkpoint does not say how long its context is, or says less than is asked for."""
    config = AutoConfig.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
    text = config.get_text_config()
    tokenizer = AutoTokenizer.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
    added = tokenizer.added_tokens_decoder.items()
    return Checkpoint(
        text.vocab_size,
        _context_length(options.max_model_len, getattr(text, "max_position_embeddings", 0) or 0),
        _eos_token_ids(options.model, text),
        {str(token.content): number for number, token in added if token.special},
        "mrope_section" in str(getattr(text, "rope_scaling", None) or getattr(text, "rope_parameters", None)),
    )


def _context_length(wanted: int, possible: int) -> int:
    if possible and wanted > possible:
        raise ValueError(f"parameter 'max_model_len' is {wanted}; the checkpoint's context holds {possible}")
    if not (wanted or possible):
        raise ValueError("parameter 'max_model_len' is required: the checkpoint does not say how long its context is")
    return wanted or possible


def _eos_token_ids(model: str, config: Any) -> tuple[int, ...]:
    """Those of generation_config first, as `generate` has it, then of the configuration; the order is kept."""
    try:
        found = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # the file is optional
        found = None
    ids = found if found is not None else getattr(config, "eos_token_id", None)
    return tuple(ids) if isinstance(ids, list | tuple) else () if ids is None else (ids,)
