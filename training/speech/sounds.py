"""What happens to sound on its way: noise, rooms, telephones; and what is no speech at all.

Signals are float32 mono at 16 kHz. Every function is a pure one of its random generators.
"""

import random

import numpy as np
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 16_000

Signal = NDArray[np.float32]


def noise(length: int, rng: np.random.Generator) -> Signal:
    """White, pink or brown noise or mains hum, of unit power."""
    if rng.random() < 0.12:
        return _unit(_hum(length, rng))
    spectrum = np.fft.rfft(rng.standard_normal(length))
    # Amplitude falls as 1/f^0.5 in pink and 1/f in brown noise; white is drawn most often.
    slope = rng.choice((0.0, 0.0, 0.5, 1.0))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -slope
    return _unit(np.fft.irfft(spectrum, length))


def _unit(wave: NDArray[np.float64]) -> Signal:
    unit: Signal = (wave / (np.std(wave) + 1e-9)).astype(np.float32)
    return unit


def _seconds(length: int) -> NDArray[np.float64]:
    time: NDArray[np.float64] = np.arange(length) / SAMPLE_RATE
    return time


def _hum(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """50 or 60 Hz with some overtones, over a little white noise."""
    base, wave = rng.choice((50.0, 60.0)), 0.05 * rng.standard_normal(length)
    for overtone in range(1, 7):
        wave += rng.uniform(0, 1 / overtone) * np.sin(2 * np.pi * base * overtone * _seconds(length))
    return wave


def with_noise(samples: Signal, decibels: float, rng: np.random.Generator) -> Signal:
    """Noise at a signal-to-noise ratio measured over the parts that sound."""
    # Silence around the speech must not make the same ratio mean less noise.
    loud = samples[np.abs(samples) > 1e-3]
    power = float(np.mean(loud**2)) if len(loud) else 1e-4
    scale = np.sqrt(power / 10 ** (decibels / 10))
    mixed: Signal = (samples + scale * noise(len(samples), rng)).astype(np.float32)
    return mixed


def telephone(samples: Signal) -> Signal:
    """The bandwidth of an 8 kHz recording, back at 16 kHz."""
    narrow = soxr.resample(samples, SAMPLE_RATE, 8_000)
    wide = soxr.resample(narrow, 8_000, SAMPLE_RATE).astype(np.float32)
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)]


def reverberant(samples: Signal, rng: np.random.Generator) -> Signal:
    """A small room: decaying noise of 0.1 to 0.4 s as the echo, 6 to 20 dB below the voice."""
    length = round(rng.uniform(0.1, 0.4) * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    tail *= 10 ** (-rng.uniform(6.0, 20.0) / 20) / (np.linalg.norm(tail) + 1e-9)
    tail[0] = 1.0
    size = len(samples) + length
    echo = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    wet: Signal = echo[: len(samples)].astype(np.float32)
    return wet


def _tones(length: int, rng: random.Random) -> NDArray[np.float64]:
    """One steady tone, a slow siren, or chords like music."""
    time, wave = _seconds(length), np.zeros(length)
    kind = rng.random()
    if kind < 0.4:
        return np.asarray(np.sin(2 * np.pi * rng.uniform(50, 4000) * time))
    if kind < 0.5:
        depth, base = rng.uniform(20, 200), rng.uniform(200, 1500)
        return np.asarray(np.sin(2 * np.pi * base * time + depth * np.sin(2 * np.pi * time)))
    beat = rng.uniform(0.2, 1.0)
    for note in range(int(length / SAMPLE_RATE / beat) + 1):
        sounding = (time >= note * beat) & (time < (note + 1) * beat)
        since = time[sounding] - note * beat
        for _ in range(rng.randint(1, 4)):
            pitch = 110 * 2 ** (rng.randint(0, 36) / 12)
            overtones = sum(np.sin(2 * np.pi * pitch * k * since) / k for k in range(1, 4))
            wave[sounding] += overtones * np.exp(-rng.uniform(0, 4) * since)
    return wave


def _clicks(length: int, rng: random.Random) -> NDArray[np.float64]:
    wave = np.zeros(length)
    for _ in range(rng.randint(1, 30)):
        start, width = rng.randrange(length), rng.randint(1, 200)
        wave[start : start + width] = rng.uniform(-1, 1)
    return wave


def without_speech(rng: random.Random, noises: np.random.Generator) -> Signal:
    """Digital silence, noise at some level, tones, chords or clicks: nothing to transcribe."""
    length = round(rng.uniform(0.3, rng.choice((6.0, 6.0, 29.0))) * SAMPLE_RATE)
    kind, level = rng.random(), 10 ** (rng.uniform(-65.0, -9.0) / 20)
    if kind < 0.1:
        return np.zeros(length, np.float32)
    samples = level * noise(length, noises).astype(np.float64)
    if kind > 0.5:
        wave = _clicks(length, rng) if kind > 0.9 else _tones(length, rng)
        quiet = rng.choice((0.0, 0.01, 0.1))
        samples = samples * quiet + level * wave / (np.abs(wave).max() + 1e-9)
    return np.clip(samples, -1.0, 1.0).astype(np.float32)
