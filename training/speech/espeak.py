"""Speech from espeak-ng with the time of every word and phone.

Knows the part of the C interface of libespeak-ng 1.51 (speak_lib.h) that synthesises to memory and
reports events. Samples are mono int16 at 22,050 Hz; times are seconds from the first sample.
"""

import ctypes
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 22_050

_WORD = re.compile(r"\S+")

_OUTPUT_SYNCHRONOUS = 2
_OPTION_PHONEME_EVENTS = 1
_EVENT_WORD = 1
_EVENT_PHONEME = 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_POSITION_CHARACTER = 1
_FLAG_UTF8 = 1


class _Id(ctypes.Union):
    _fields_: ClassVar = [("number", ctypes.c_int), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Span:
    """A named stretch of time: a word (its text) or a phone (espeak's mnemonic)."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Voice:
    """A voice file, perhaps with a variant (``gmw/en-US+m1``), words per minute, pitch 0-99."""

    name: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50


@dataclass
class Speech:
    """Synthesised int16 samples with the words and the sounding phones in them."""

    samples: NDArray[np.int16]
    words: list[Span] = field(default_factory=list)
    phones: list[Span] = field(default_factory=list)


class Synthesizer:
    """The espeak-ng library of this process; it holds global state, so make one."""

    def __init__(self, library: str = "libespeak-ng.so.1") -> None:
        self._lib = ctypes.CDLL(library)
        rate = self._lib.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, None, _OPTION_PHONEME_EVENTS)
        if rate != SAMPLE_RATE:
            raise RuntimeError(f"espeak-ng gives {rate} Hz, expected {SAMPLE_RATE}")
        self._blocks: list[NDArray[np.int16]] = []
        self._words: list[tuple[int, int]] = []
        self._phones: list[tuple[int, str]] = []
        # ctypes keeps no reference to a callback handed to C: without ours it would be collected.
        self._callback = _Callback(self._receive)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wav: Any, count: int, events: Any) -> int:
        if wav and count:
            self._blocks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        index = 0
        while (event := events[index]).type:
            if event.type == _EVENT_WORD:
                self._words.append((event.sample, event.text_position - 1))
            elif event.type == _EVENT_PHONEME:
                self._phones.append((event.sample, event.id.string.decode("utf-8", "replace")))
            index += 1
        return 0

    def _configure(self, voice: Voice) -> None:
        if self._lib.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in (
            (_RATE, voice.rate),
            (_VOLUME, 100),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
        ):
            self._lib.espeak_SetParameter(parameter, value, 0)

    def speak(self, text: str, voice: Voice) -> Speech:
        """Synthesise ``text``. Raises ValueError for an unknown voice, RuntimeError on failure."""
        self._blocks, self._words, self._phones = [], [], []
        self._configure(voice)
        # The C side wants the terminating zero counted in the size.
        data = text.encode() + b"\0"
        flags = _FLAG_UTF8
        if self._lib.espeak_Synth(data, len(data), 0, _POSITION_CHARACTER, 0, flags, None, None):
            raise RuntimeError(f"espeak-ng could not speak {text!r}")
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        phones = _phone_spans(self._phones, len(samples))
        return Speech(samples, _word_spans(text, self._words, phones), phones)


def _phone_spans(events: list[tuple[int, str]], total: int) -> list[Span]:
    """Spans of sounding phones; a pause (its mnemonic begins with ``_``) only ends one."""
    spans = []
    for (start, name), (end, _) in zip(events, [*events[1:], (total, "")], strict=True):
        if name and not name.startswith("_") and end > start:
            spans.append(Span(name, start / SAMPLE_RATE, end / SAMPLE_RATE))
    return spans


def _word_spans(text: str, events: list[tuple[int, int]], phones: list[Span]) -> list[Span]:
    """A span for each word of ``text``, by text position. espeak-ng says some words as one ("in
    the"); those share a span. An event for a place inside a word or a gap is of no use."""
    found = [(match.start(), match[0].strip(".,!?").lower()) for match in _WORD.finditer(text)]
    starts: dict[int, float] = {}
    for sample, position in events:
        starts.setdefault(position, sample / SAMPLE_RATE)
    times = sorted(starts[position] for position, _ in found if position in starts)
    spans: list[Span] = []
    for position, word in found:
        start = starts.get(position, -1.0)
        limit = next((time for time in times if time > start), float("inf"))
        inside = [phone for phone in phones if start - 1e-4 <= phone.start < limit]
        if start >= 0.0 and inside:
            spans.append(Span(word, inside[0].start, inside[-1].end))
        elif spans:
            spans.append(Span(word, spans[-1].start, spans[-1].end))
        elif phones:
            spans.append(Span(word, phones[0].start, phones[0].end))
    return spans
