"""What an evaluation measures. Rates are fractions of one, times are seconds."""

from dataclasses import dataclass, field


@dataclass
class Score:
    """Words under one condition, greedy and without timestamps."""

    condition: str
    clips: int
    words: int
    word_error_rate: float
    exact: float
    # Clips whose most likely first token is the right language.
    detected: float


@dataclass
class TimeScore:
    """Decoding with timestamps. Errors of starts and ends where the number of segments is right,
    and of the starts of words where the text is right."""

    condition: str
    clips: int
    word_error_rate: float
    right_number: float
    mean_error: float
    within_200_ms: float
    word_mean_error: float
    words_within_200_ms: float


@dataclass
class Figures:
    """All figures of one evaluation. ``empty``: clips without speech that gave no text, without
    and with timestamps; ``no_speech``: those whose first token was ``<|nospeech|>``."""

    scores: list[Score] = field(default_factory=list)
    times: list[TimeScore] = field(default_factory=list)
    silences: int = 0
    empty: float = 0.0
    empty_timed: float = 0.0
    no_speech: float = 0.0
