"""Files decoded in processes of their own: piece by piece, as many at a time as come, and through crashes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from transformers import WhisperFeatureExtractor

from python_backends.audio.decode import decode_audio
from python_backends.audio.decode_pool import DecodedFile, DecodePool
from python_backends.audio.decode_worker import EndOfFile, FileToDecode, LogMelPiece
from python_backends.audio.features import LogMel
from python_backends.audio.regions import DecodedRegions
from python_backends.audio.speech_cutter import CutOptions
from python_backends.audio.transcription import Region
from python_backends.errors import InternalFault, InvalidInput
from tests.backends.audio.sound import by_soundfile, voice


@pytest.fixture(scope="module")
def log_mel(tmp_path_factory: pytest.TempPathFactory) -> LogMel:
    path = tmp_path_factory.mktemp("extractor")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(path)
    return LogMel.of_checkpoint(str(path))


@pytest.fixture(scope="module")
def pool(log_mel: LogMel) -> Iterator[DecodePool]:
    pool = DecodePool(log_mel, num_workers=1)
    yield pool
    pool.close()


def file(seconds: float, cut: CutOptions | None = None, max_duration: float = 1000) -> FileToDecode:
    data = by_soundfile(voice(seconds), 16_000, "FLAC")
    return FileToDecode(data, max_duration, cut)


def drained(opened: DecodedFile) -> tuple[list[LogMelPiece], EndOfFile]:
    pieces = []
    while isinstance(found := opened.next(), LogMelPiece):
        pieces.append(found)
    opened.close()
    return pieces, found


def worker_of(pool: DecodePool) -> psutil.Process:
    process = pool._workers[0]._process
    assert process is not None
    return psutil.Process(process.pid)


def test_a_file_comes_back_as_the_extractor_would_have_it(pool: DecodePool, log_mel: LogMel) -> None:
    (piece,), end = drained(pool.open(file(4.5)))
    samples = decode_audio(file(4.5).data, 10).samples
    assert end.duration == pytest.approx(4.5)
    assert (piece.start, piece.duration) == (0, pytest.approx(4.5, abs=0.001))
    found = log_mel.normalized(piece.log_power, float(piece.log_power.max()))
    assert np.abs(found - log_mel(samples)).max() == 0


def test_several_files_take_turns_in_one_worker(pool: DecodePool) -> None:
    whole = [drained(pool.open(file(seconds, CutOptions(may_be_long=False)))) for seconds in (65, 35)]
    first, second = (pool.open(file(seconds, CutOptions(may_be_long=False))) for seconds in (65, 35))
    assert repr(pool) == "<DecodePool of 1, 2 files open>"
    mixed = [first.next(), second.next(), second.next(), first.next()]
    assert isinstance(mixed[0], LogMelPiece) and isinstance(mixed[1], LogMelPiece)
    assert np.array_equal(mixed[0].log_power, whole[0][0][0].log_power)
    assert np.array_equal(mixed[1].log_power, whole[1][0][0].log_power)
    first.close()
    first.close()
    with pytest.raises(InternalFault, match="closed"):
        first.next()
    second.close()
    assert repr(pool) == "<DecodePool of 1, 0 files open>"


def test_bad_files_name_the_field(pool: DecodePool) -> None:
    for bad in (FileToDecode(b"no sound", 10, None), file(3, max_duration=2), FileToDecode(b"", 10, None)):
        opened = pool.open(bad)
        with pytest.raises(InvalidInput) as caught:
            opened.next()
        assert caught.value.field == "audio"
        opened.close()


def test_hours_that_unpack_from_little_are_refused_in_bounded_memory(pool: DecodePool) -> None:
    """Three hours of silence in a FLAC file of a hundredth of their size, with a limit of two."""
    drained(pool.open(file(1)))
    before = worker_of(pool).memory_info().rss
    seconds = 3 * 3600
    data = by_soundfile(np.zeros((seconds * 8000, 1), np.int16), 8000, "FLAC")
    assert len(data) < 2_000_000
    opened = pool.open(FileToDecode(data, 2 * 3600, CutOptions()))
    with pytest.raises(InvalidInput, match="longer than the limit of 7200 seconds"):
        opened.next()
    opened.close()
    assert worker_of(pool).memory_info().rss - before < 100e6


def test_a_crash_costs_only_the_file_that_was_worked_on(pool: DecodePool) -> None:
    options = CutOptions(may_be_long=False)
    bystander = pool.open(file(65, options))
    first = bystander.next()
    victim = pool.open(file(10))
    worker_of(pool).suspend()
    threading.Timer(0.3, os.kill, (worker_of(pool).pid, signal.SIGKILL)).start()
    with pytest.raises(InvalidInput, match="crashed") as caught:
        victim.next()
    assert caught.value.field == "audio"
    victim.close()
    second = bystander.next()
    assert isinstance(first, LogMelPiece) and isinstance(second, LogMelPiece)
    assert second.start == pytest.approx(first.start + first.duration, abs=0.05), "it went on where it was"
    bystander.close()


def test_the_worker_goes_with_its_owner(log_mel: LogMel) -> None:
    other = DecodePool(log_mel, num_workers=1)
    drained(other.open(file(0.1)))
    process = worker_of(other)
    other.close()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_regions_are_made_ahead_but_not_all_of_them(pool: DecodePool, log_mel: LogMel) -> None:
    changed = threading.Semaphore(0)
    opened = pool.open(file(125, CutOptions(may_be_long=False)))
    with ThreadPoolExecutor(1) as executor:
        regions = DecodedRegions(opened, log_mel, executor, num_ahead=2, on_change=changed.release)
        for _ in range(2):
            assert changed.acquire(timeout=30)
        assert not changed.acquire(timeout=0.3), "two are enough for now"
        assert repr(regions) == f"<DecodedRegions 2 ready, {regions.duration:.1f} s>"
        found: list[Region] = []
        while not regions.ended:
            if region := regions.take():
                found.append(region)
            else:
                assert changed.acquire(timeout=30)
        assert regions.take() is None
    assert len(found) == 5
    assert all(each.features.shape == (80, 3000) for each in found)
    assert regions.duration == pytest.approx(125, abs=0.01)
    assert sum(each.duration for each in found) == pytest.approx(125, abs=0.1)


def test_what_is_wrong_with_a_file_is_told_to_whoever_waits(pool: DecodePool, log_mel: LogMel) -> None:
    changed = threading.Semaphore(0)
    with ThreadPoolExecutor(1) as executor:
        opened = pool.open(FileToDecode(b"no sound", 10, None))
        regions = DecodedRegions(opened, log_mel, executor, num_ahead=2, on_change=changed.release)
        assert changed.acquire(timeout=30)
        assert not regions.ended, "or nobody would ask for more, and hear of it"
        with pytest.raises(InvalidInput, match="no WAV"):
            regions.take()
        regions.close()
        regions.close()
    assert repr(pool) == "<DecodePool of 1, 0 files open>"
