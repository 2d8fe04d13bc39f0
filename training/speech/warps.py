"""What a log-mel spectrogram would have been in another throat, through another microphone, in noise.

Drawn anew each time a clip is used, so that a stored clip never sounds the same twice. All values are Whisper's
`(log10 power + 4) / 4`, ``[frames, 80]``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from training.speech.features import MELS

Mels = NDArray[np.float32]

_TOP = 8000.0
_STEPS = np.linspace(0.0, hertz_to_mel(_TOP, "slaney"), MELS + 2)
_EDGES = np.asarray(mel_to_hertz(_STEPS, "slaney"))
_CENTRES = _EDGES[1:-1]
_WIDTHS = (_EDGES[2:] - _EDGES[:-2]) / 2
# Bins of the Fourier transform in a band: noise flutters less in wide bands.
_BINS = np.maximum(1.0, _WIDTHS / 40.0)
_DECIBEL = 1 / 40


@dataclass(frozen=True)
class Warp:
    """How often each change is made, and how strong it may be."""

    throat: float = 0.3
    longest_throat: float = 1.12
    tilt: float = 0.3
    tilt_db: float = 10.0
    noise: float = 0.25
    noise_db: tuple[float, float] = (6.0, 30.0)
    narrow: float = 0.1

    def __call__(self, values: Mels, rng: np.random.Generator) -> Mels:
        """The spectrogram after a random choice of changes."""
        if rng.random() < self.throat:
            values = stretched(values, self.longest_throat ** rng.uniform(-1.0, 1.0))
        if rng.random() < self.tilt:
            values = values + tilt(rng, self.tilt_db)
        narrow = rng.random() < self.narrow
        # A telephone may stand in the noise, or the noise where its voice comes out.
        before = rng.random() < 0.5
        if narrow and not before:
            values = narrowed(values)
        if rng.random() < self.noise:
            values = noisy(values, rng.uniform(*self.noise_db), rng)
        return narrowed(values) if narrow and before else values


def stretched(values: Mels, factor: float) -> Mels:
    """All frequencies times `factor`, as by a shorter (above 1) or longer vocal tract."""
    # As vocal tract length perturbation (Jaitly and Hinton, 2013), over the whole band.
    source = np.interp(hertz_to_mel(np.minimum(_CENTRES / factor, _TOP), "slaney"), _STEPS[1:-1], np.arange(MELS))
    low = np.minimum(source.astype(int), MELS - 2)
    share = (source - low).astype(np.float32)
    moved: Mels = values[:, low] * (1 - share) + values[:, low + 1] * share
    return moved


def tilt(rng: np.random.Generator, decibels: float) -> Mels:
    """A smooth gain over the bands, as of a microphone or a room."""
    place = np.linspace(-1.0, 1.0, MELS)
    curve = rng.uniform(-1, 1) * place + rng.uniform(-0.5, 0.5) * np.cos(rng.uniform(1, 3) * np.pi * place)
    gains: Mels = (decibels * _DECIBEL * curve).astype(np.float32)
    return gains


def noisy(values: Mels, decibels: float, rng: np.random.Generator) -> Mels:
    """White, pink or brown noise at a signal-to-noise ratio measured where there is sound."""
    power = 10.0 ** (4.0 * values.astype(np.float64) - 4.0)
    energy = power @ _WIDTHS
    sounding = energy[energy > 1e-3 * energy.max()].mean()
    colour = (_CENTRES / 1000.0) ** -rng.choice((0.0, 0.0, 1.0, 2.0))
    level = sounding / (colour @ _WIDTHS) / 10 ** (decibels / 10)
    flutter = rng.standard_gamma(_BINS, values.shape) / _BINS
    mixed: Mels = ((np.log10(power + level * colour * flutter) + 4.0) / 4.0).astype(np.float32)
    return mixed


def narrowed(values: Mels) -> Mels:
    """The bandwidth of an 8 kHz recording."""
    kept = values.copy()
    # Behind the filter lies what Whisper's extractor clamps: 8 powers of ten below the loudest.
    kept[:, _CENTRES > 3900.0] = values.max() - 2.0
    return kept
