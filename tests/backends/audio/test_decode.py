"""Every format, rate and channel count comes out as the same mono sound at 16 kHz, or is refused by name."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from python_backends.audio.decode import SAMPLE_RATE, Audio, decode_audio
from python_backends.errors import InvalidInput
from tests.backends.audio.sound import TONE_HZ, by_ffmpeg, by_soundfile, pitch, tone

FILES = {
    "wav 8 bit": lambda: by_soundfile(tone(2, 44_100), 44_100, "WAV", "PCM_U8"),
    "wav 16 bit, 48 kHz stereo": lambda: by_soundfile(tone(2, 48_000, 2), 48_000),
    "wav 24 bit, 8 kHz": lambda: by_soundfile(tone(2, 8_000), 8_000, "WAV", "PCM_24"),
    "wav float, 5.1": lambda: by_soundfile(tone(2, 16_000, 6), 16_000, "WAV", "FLOAT"),
    "wav mu-law": lambda: by_soundfile(tone(2, 8_000), 8_000, "WAV", "ULAW"),
    "flac, 96 kHz": lambda: by_soundfile(tone(2, 96_000, 2), 96_000, "FLAC"),
    "ogg vorbis": lambda: by_soundfile(tone(2, 44_100), 44_100, "OGG", "VORBIS"),
    "mp3": lambda: by_soundfile(tone(2, 22_050), 22_050, "MP3", "MPEG_LAYER_III"),
    "ogg opus": lambda: by_ffmpeg(tone(2, 48_000, 2), 48_000, "ogg", "libopus"),
    "webm opus": lambda: by_ffmpeg(tone(2, 48_000, 2), 48_000, "webm", "libopus"),
    "m4a aac": lambda: by_ffmpeg(tone(2, 44_100, 2), 44_100, "mp4", "aac"),
}


@pytest.mark.parametrize("name", FILES)
def test_formats(name: str) -> None:
    audio = decode_audio(FILES[name](), max_duration=10)
    assert audio.samples.dtype == np.float32
    assert audio.duration == pytest.approx(2, abs=0.05)
    assert len(audio.samples) == pytest.approx(audio.duration * SAMPLE_RATE, abs=2)
    middle = audio.samples[4_000:-4_000]
    assert pitch(middle, SAMPLE_RATE) == pytest.approx(TONE_HZ, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.03)


def test_16_khz_passes_unchanged() -> None:
    samples = tone(1, SAMPLE_RATE)
    found = decode_audio(by_soundfile(samples, SAMPLE_RATE, "WAV", "FLOAT"), max_duration=10).samples
    assert np.abs(found - samples[:, 0]).max() < 1e-6


def test_channels_are_averaged() -> None:
    samples = tone(1, SAMPLE_RATE, 2)
    samples[:, 1] = 0
    found = decode_audio(by_soundfile(samples, SAMPLE_RATE, "WAV", "FLOAT"), max_duration=10).samples
    assert np.abs(found - samples[:, 0] / 2).max() < 1e-6


def test_tones_that_16_khz_cannot_hold_are_filtered_out() -> None:
    times = np.arange(48_000) / 48_000
    high = (0.5 * np.sin(2 * np.pi * 12_000 * times)).astype(np.float32)
    found = decode_audio(by_soundfile(high, 48_000), max_duration=10).samples
    assert np.abs(found[1_000:-1_000]).max() < 1e-3


def test_longer_than_the_limit_is_refused() -> None:
    data = by_soundfile(tone(3, 16_000), 16_000)
    with pytest.raises(InvalidInput, match="longer than the limit of 2 seconds"):
        decode_audio(data, max_duration=2)
    assert decode_audio(data, max_duration=3).duration == 3


def test_an_empty_track_is_no_time_at_all() -> None:
    audio = decode_audio(by_soundfile(tone(0, 16_000), 16_000), max_duration=2)
    assert (audio.duration, len(audio.samples)) == (0.0, 0)


def test_a_file_cut_short_gives_what_it_holds() -> None:
    data = by_soundfile(tone(2, 44_100), 44_100, "MP3", "MPEG_LAYER_III")
    audio: Audio = decode_audio(data[: len(data) // 2], max_duration=10)
    assert 0.5 < audio.duration < 1.5


@pytest.mark.parametrize("data", [b"", b"nonsense" * 50, b"RIFF" + bytes(60), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_broken_files_name_the_field(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_audio(data, max_duration=10)
    assert caught.value.field == "audio"


def test_playlists_open_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.wav").write_bytes(by_soundfile(tone(1, 16_000), 16_000))
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.wav\n"
    with av.open(BytesIO(playlist)) as opened:
        assert opened.format.name == "concat", "FFmpeg by itself would read the other file"
    with pytest.raises(InvalidInput, match="can be decoded"):
        decode_audio(playlist, max_duration=10)


def test_absurd_sample_rates_are_refused() -> None:
    with pytest.raises(InvalidInput, match="7 samples a second"):
        decode_audio(by_soundfile(tone(1, 16_000), 7), max_duration=1e9)
