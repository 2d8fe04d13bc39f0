"""The rules for the next token equal those of transformers' processors, row by row; what makes a text doubtful."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from python_backends.audio.token_rules import TokenRules
from python_backends.audio.windows import Thresholds, token_compression_ratio

EOS, NO_TIMESTAMPS, BEGIN, SIZE = 10, 14, 15, 40
CONFIG = GenerationConfig(
    eos_token_id=EOS,
    bos_token_id=EOS,
    suppress_tokens=[1, 2],
    begin_suppress_tokens=[3, EOS],
    no_timestamps_token_id=NO_TIMESTAMPS,
    max_initial_timestamp_index=5,
)


def wanted(scores: torch.Tensor, tokens: list[int], timed: bool) -> torch.Tensor:
    ids = torch.tensor([[11, 12, *tokens]])
    processors = [SuppressTokensAtBeginLogitsProcessor([3, EOS], 2), SuppressTokensLogitsProcessor([1, 2])]
    if timed:
        processors.append(WhisperTimeStampLogitsProcessor(CONFIG, begin_index=2))
    found = scores[None]
    for processor in processors:
        found = processor(ids, found)
    return found[0]


def history(dice: random.Random) -> list[int]:
    """Text and timestamps as a model may say them: times never go back, and come alone or in pairs."""
    tokens: list[int] = []
    time = BEGIN
    for _ in range(dice.randrange(5)):
        time = dice.randint(time, min(time + 4, SIZE - 1))
        tokens += [time] * dice.randint(1, 2) + [dice.randrange(3, EOS) for _ in range(dice.randint(0, 2))]
    return tokens


def test_rows_of_different_progress_equal_the_library() -> None:
    dice = random.Random(3)
    torch.manual_seed(3)
    rules = TokenRules(CONFIG)
    changed = 0
    for _ in range(100):
        texts = [history(dice) for _ in range(6)]
        timed = [dice.random() < 0.7 for _ in texts]
        scores = torch.randn(len(texts), SIZE) * 3
        expected = torch.stack([wanted(*row) for row in zip(scores, texts, timed, strict=True)])
        changed += int((scores != expected).sum())
        rules.apply(scores, texts, timed)
        assert torch.equal(scores, expected), texts
    assert changed > 5000


@pytest.mark.parametrize("vocab_size", [200, 4385, 51_866])
def test_ratios_of_tokens_equal_the_library(vocab_size: int) -> None:
    dice = random.Random(1)
    ratio = WhisperForConditionalGeneration._retrieve_compression_ratio
    for length in (1, 5, 60):
        ids = dice.choices(range(vocab_size), k=length)
        assert token_compression_ratio(ids, vocab_size) == ratio(torch.tensor(ids), vocab_size)
    assert token_compression_ratio([7] * 60, vocab_size) > 1.35 > token_compression_ratio(ids, vocab_size)


def test_a_rule_without_a_threshold_is_off() -> None:
    usual, off = Thresholds(), Thresholds(None, None, None)
    assert usual.doubt([7] * 60, 200, 0.0) and usual.doubt([7], 200, -1.5) and usual.silent(0.7, -1.5)
    assert not (off.doubt([7] * 60, 200, -9.0) or off.silent(1.0, -9.0) or usual.doubt([7], 200, -0.5))
    assert not (usual.silent(0.5, -1.5) or usual.silent(0.7, -0.5)), "silence needs both"


def test_checkpoints_without_timestamps_have_no_grammar() -> None:
    config = GenerationConfig(eos_token_id=EOS, bos_token_id=EOS)
    scores = torch.randn(2, SIZE)
    before = scores.clone()
    TokenRules(config).apply(scores, [[], [3]], [False, False])
    assert torch.equal(scores, before)
