"""Log-mel features equal those of transformers' WhisperFeatureExtractor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from python_backends.audio.features import LogMel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("extractor")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(path)
    return str(path)


def noise(seconds: float) -> np.ndarray:  # type: ignore[type-arg]
    loudness = np.random.default_rng(1).standard_normal(round(seconds * 16_000))
    return (loudness * np.linspace(0.001, 0.3, len(loudness))).astype(np.float32)


@pytest.mark.parametrize("seconds", [0, 0.01, 3.3, 30])
def test_up_to_a_window_is_padded_to_one(folder: str, seconds: float) -> None:
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    wanted = extractor(noise(seconds), sampling_rate=16_000, return_tensors="np")["input_features"][0]
    found = LogMel.of_checkpoint(folder)(noise(seconds))
    assert found.shape == wanted.shape == (80, 3000)
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize("seconds", [30.01, 60.0, 137.77])
def test_longer_audio_keeps_its_length(folder: str, seconds: float) -> None:
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    options = {"truncation": False, "padding": "longest", "return_tensors": "np"}
    wanted = extractor(noise(seconds), sampling_rate=16_000, **options)["input_features"][0]
    found = LogMel.of_checkpoint(folder)(noise(seconds))
    assert found.shape == wanted.shape == (80, round(seconds * 16_000) // 160)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-4


def test_torch_is_not_needed(folder: str, tmp_path: Path) -> None:
    np.save(tmp_path / "samples.npy", noise(40))
    program = (
        "import sys\n"
        "from python_backends.transformers_setup import keep_torch_out\n"
        "keep_torch_out()\n"
        "import numpy\n"
        "from python_backends.audio.features import LogMel\n"
        "samples = numpy.load(sys.argv[2] + '/samples.npy')\n"
        "numpy.save(sys.argv[2] + '/features.npy', LogMel.of_checkpoint(sys.argv[1])(samples))\n"
        "assert sys.modules['torch'] is None\n"
    )
    subprocess.run([sys.executable, "-c", program, folder, str(tmp_path)], check=True, timeout=60)
    assert np.abs(np.load(tmp_path / "features.npy") - LogMel.of_checkpoint(folder)(noise(40))).max() < 1e-4
