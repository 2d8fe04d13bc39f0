"""Words of the bundled speech model begin where those of transformers' pipeline do, with the checkpoint's own heads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

from python_backends.audio.features import LogMel
from python_backends.audio.whisper_model import WhisperModel
from python_backends.audio.window_decoder import WindowDecoder
from tests.backends.audio.windows import PLAIN, decode, window
from tests.checkpoints import DEMO_WHISPER
from tests.utterances import RATE, recording, utterances

SEEDS = range(6)


@pytest.mark.filterwarnings("ignore")
def test_words_begin_where_those_of_the_pipeline_do() -> None:
    model, log_mel = WhisperModel(str(DEMO_WHISPER)), LogMel.of_checkpoint(str(DEMO_WHISPER))
    listen: Any = pipeline("automatic-speech-recognition", model=str(DEMO_WHISPER))
    options = replace(PLAIN, timestamps=True, word_timestamps=True)
    differences: list[float] = []
    for seed in SEEDS:
        samples = recording(utterances(seed, number=2))
        sound = replace(window(log_mel(samples), options=options), num_frames=len(samples) * 100 // RATE)
        (found,) = decode(WindowDecoder(model, 1), [sound])
        wishes = {"language": "en", "task": "transcribe"}
        wanted = listen(samples, return_timestamps="word", generate_kwargs=wishes)["chunks"]
        # The library attends by other kernels there, and a near tie may fall the other way.
        if [word.text for word in found.words] == [each["text"] for each in wanted]:
            # It lets the first word begin with the recording.
            pairs = list(zip(found.words, wanted, strict=True))[1:]
            differences += [abs(word.start - each["timestamp"][0]) for word, each in pairs]
        assert all(one.start <= one.end <= other.start + 1e-6 for one, other in pairwise(found.words))
    assert len(differences) >= 30
    assert np.median(differences) <= 0.1, differences
    assert np.mean(np.array(differences) <= 0.5) >= 0.75, differences
