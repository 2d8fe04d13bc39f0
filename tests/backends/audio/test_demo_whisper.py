"""The bundled speech model: text, timestamps and log-probabilities equal those of `generate` on spoken recordings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from python_backends.audio.decode import decode_audio
from python_backends.audio.features import LogMel
from python_backends.audio.regions import GivenRegion
from python_backends.audio.transcription import Region, Transcription
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.window_decoder import WindowDecoder
from tests.backends.audio.windows import PLAIN, Array, decode, decode_all, facts, window
from tests.checkpoints import DEMO_WHISPER
from tests.speech import say

PHRASES = ("one two three", "nine eight seven six five four three two one", "zero", "four four four", "six seven")


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    return WhisperModel(str(DEMO_WHISPER))


@pytest.fixture(scope="module")
def reference() -> Any:
    return WhisperForConditionalGeneration.from_pretrained(DEMO_WHISPER).eval()


@pytest.fixture(scope="module")
def sounds() -> list[Array]:
    """Log-mel of the phrases."""
    log_mel = LogMel.of_checkpoint(str(DEMO_WHISPER))
    return [log_mel(decode_audio(say(phrase), 60).samples) for phrase in PHRASES]


@pytest.mark.parametrize("timestamps", [False, True])
def test_windows_equal_generate(model: WhisperModel, reference: Any, sounds: list[Array], timestamps: bool) -> None:
    options = replace(PLAIN, timestamps=timestamps)
    found = decode(WindowDecoder(model, 3), [window(sound, options=options) for sound in sounds])
    wishes = {"language": "en", "task": "transcribe", "return_timestamps": timestamps}
    for sound, text in zip(sounds, found, strict=True):
        with torch.no_grad():
            ids = reference.generate(torch.from_numpy(sound)[None], force_unique_generate_call=True, **wishes)
        wanted = [token for token in ids[0].tolist() if token != model.eos]
        start = model.start_ids("<|en|>", options)
        assert [*start, *text.tokens] == (wanted if tuple(wanted[: len(start)]) == start else [*start, *wanted])
        assert text.avg_logprob > -1 and text.no_speech_prob < 0.5 and text.finished


def test_a_recording_of_several_windows_equals_generate(model: WhisperModel, reference: Any) -> None:
    samples = np.concatenate([decode_audio(say(phrase), 60).samples for phrase in PHRASES * 6])
    sound = LogMel.of_checkpoint(str(DEMO_WHISPER))(samples)
    assert sound.shape[1] > 3000
    job = Transcription(GivenRegion(Region(sound, len(samples) / 16_000)), "<|en|>", PLAIN, facts(model))
    decode_all(WindowDecoder(model, 2), job)
    with torch.no_grad():
        ids = reference.generate(
            torch.from_numpy(sound)[None], language="en", task="transcribe", return_timestamps=True
        )
    wanted = model.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    assert "".join(model.text(each.segment.tokens) for each in job.read()) == wanted
