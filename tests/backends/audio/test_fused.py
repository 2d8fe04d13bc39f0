"""The fused encoder and decoder in bfloat16 are as near to float32 as the library's own modules are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from python_backends.audio.slot_decoder import SlotDecoder
from python_backends.audio.whisper_model import WhisperModel
from python_backends.compiled.numbers import COMPILED
from tests.backends.audio import tiny_whisper
from tests.backends.audio.tiny_whisper import MELS, WINDOW_FRAMES
from tests.backends.audio.windows import window

pytestmark = pytest.mark.skipif(torch.bfloat16 not in COMPILED, reason="nothing is compiled here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    tiny_whisper.save(folder)
    return folder


def library(folder: Path, dtype: torch.dtype) -> Any:
    return WhisperForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()


def sounds(number: int) -> torch.Tensor:
    features = np.random.default_rng(number).standard_normal((number, MELS, WINDOW_FRAMES))
    return torch.from_numpy(features.astype(np.float32))


def assert_as_near(found: torch.Tensor, rounded: torch.Tensor, exact: torch.Tensor) -> None:
    """`found` is about as far from `exact` as what the library computes in bfloat16, and not as far as a fault."""
    far = (rounded.float() - exact).norm()
    assert found.shape == exact.shape
    assert 0 < (found.float() - exact).norm() < 1.5 * far < 0.1 * exact.norm()


@torch.inference_mode()
def test_windows_are_encoded_as_by_the_library(folder: Path) -> None:
    features = sounds(2)
    found = WhisperModel(str(folder), "bfloat16").encode([window(each.numpy()) for each in features])
    exact = library(folder, torch.float32).model.encoder(features).last_hidden_state
    rounded = library(folder, torch.bfloat16).model.encoder(features.bfloat16()).last_hidden_state
    assert_as_near(found, rounded, exact)


@torch.inference_mode()
def test_tokens_one_by_one_are_what_all_at_once_are(folder: Path) -> None:
    ids = torch.randint(100, (3, 9), generator=torch.Generator().manual_seed(3))
    hidden = torch.randn(3, WINDOW_FRAMES // 2, 32, generator=torch.Generator().manual_seed(4))
    slots = SlotDecoder(WhisperModel(str(folder), "bfloat16").network, 4)
    slots.hear(0, hidden.bfloat16())
    found = torch.cat([slots.scores(slots.forward(0, ids[:, [i]], [i] * 3)) for i in range(9)], dim=1)
    exact, rounded = (
        library(folder, dtype)(decoder_input_ids=ids, encoder_outputs=(hidden.to(dtype),)).logits
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert_as_near(found, rounded, exact)
