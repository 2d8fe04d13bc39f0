"""What an evaluation measures. Rates are fractions of one, times are seconds."""

from dataclasses import dataclass, field


@dataclass
class Score:
    """Transcription under one condition, greedy and without timestamps."""

    condition: str
    clips: int
    words: int
    word_error_rate: float
    exact: float


@dataclass
class SegmentScore:
    """Decoding with timestamps; errors of starts and ends where the number of segments is right."""

    condition: str
    clips: int
    right_number: float
    mean_error: float
    within_200_ms: float
    word_error_rate: float


@dataclass
class Figures:
    """All figures of one evaluation.

    ``empty``: clips without speech that gave no text; ``no_speech``: those whose first token was
    ``<|nospeech|>``; ``english``: clips with speech whose first token was ``<|en|>``.
    """

    scores: list[Score] = field(default_factory=list)
    segments: list[SegmentScore] = field(default_factory=list)
    empty: float = 0.0
    no_speech: float = 0.0
    english: float = 0.0
