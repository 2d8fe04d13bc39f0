"""How many prompt tokens a step may read beside the streams that run: learnt from what earlier steps took.

Plain Python without a clock: whoever runs the steps says how long they took. A prompt that is read beside streams makes
their step longer. So the step's prompt tokens are chosen such that it takes less than two pure decode steps; the more
prompts wait for each stream, the more of the step they get, up to a bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

# So that a prompt gets on even where its tokens are dear.
_MIN_TOKENS = 4
# While costs are unknown: beside streams, and alone.
_FIRST_TOKENS, _FIRST_TOKENS_ALONE = 16, 128
# A step with nothing but prompts in it still ends soon enough for an abort, and for whoever comes next.
_LONGEST_STEP_S = 0.75
# Beside streams, prompts get this share of a pure decode step: a little less than one, because costs vary. Where many
# wait for each stream, they get this much for each of them: few people wait for the next token then, and a step with
# many prompt tokens reads them twice as fast as one with a few.
_SHARE, _SHARE_PER_STREAM, _SHARE_PER_PROMPT, _LARGEST_SHARE = 0.75, 6.0, 2.0, 8.0
# Short prompts, and what is left of long ones, are read in a few long steps where those are enough: who waits for a
# first token notices the difference, who reads along does not.
_SHORT_SHARE, _NUM_SHORT_STEPS, _NUM_SHORT_TOKENS = 3.5, 12, 1024
_LAST_SHARE, _NUM_LAST_STEPS = 3.0, 4
_STEPS_BETWEEN_MEASUREMENTS = 16
# What a step with prompt tokens costs beyond them, whatever their number, in decode steps: if it counted as theirs, few
# tokens would look ever dearer, and become ever fewer. So would a token that costs more than this much of one alone.
_MIXING, _DEAREST = 0.15, 1.5
_LEAST_S = 1e-9
# Medians, because a step that the machine interrupted must not halve or double the next ones.
_NUM_REMEMBERED = 7


class Pacing:
    """The costs of a decode step and of a prompt token, in seconds, and what follows from them."""

    def __init__(self) -> None:
        # By their number of sequences.
        self._decode_s: dict[int, deque[float]] = {}
        # Beside streams, and alone.
        self._mixed_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)
        self._alone_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)
        self._num_mixed = 0

    def __repr__(self) -> str:
        decode = {size: round(median(costs), 6) for size, costs in self._decode_s.items()}
        return f"<Pacing decode step {decode} s, prompt token {self._token_cost(0)} s>"

    def prompt_tokens(self, num_decodes: int, num_prompts: int, num_unread: int, num_tokens: int) -> int:
        """How many tokens a step with `num_decodes` may compute of `num_prompts` prompts, which have `num_tokens`, of
        them `num_unread`."""
        token_s, decode_s = self._token_cost(num_decodes), self._decode_cost(num_decodes)
        if not num_decodes:
            return max(_MIN_TOKENS, int(_LONGEST_STEP_S / token_s)) if token_s else _FIRST_TOKENS_ALONE
        if self._num_mixed >= _STEPS_BETWEEN_MEASUREMENTS:
            return 0
        if not token_s or not decode_s:
            return _FIRST_TOKENS
        share = max(_SHARE, _SHARE_PER_STREAM * num_prompts / num_decodes)
        if num_prompts > 1:
            share = max(share, _SHARE_PER_PROMPT * num_prompts)
        share = min(share, _LARGEST_SHARE)
        in_decodes = num_unread * token_s / decode_s
        if num_tokens <= _NUM_SHORT_TOKENS and in_decodes <= _NUM_SHORT_STEPS * _SHORT_SHARE:
            share = max(share, _SHORT_SHARE)
        elif num_unread <= _NUM_SHORT_TOKENS and in_decodes <= _NUM_LAST_STEPS * _LAST_SHARE:
            share = max(share, _LAST_SHARE)
        return max(_MIN_TOKENS, int(share * decode_s / token_s))

    def reading_s(self, num_tokens: int) -> float:
        """How long a prompt of that many tokens takes without streams beside it; 0 while nobody knows."""
        return num_tokens * (self._token_cost(0) or 0.0)

    def observe(self, num_decodes: int, num_prompt_tokens: int, seconds: float) -> None:
        """A step of that many decodes and prompt tokens took that long."""
        if not num_prompt_tokens:
            self._decode_s.setdefault(num_decodes, deque(maxlen=_NUM_REMEMBERED)).append(seconds)
        elif num_prompt_tokens >= _MIN_TOKENS:
            # A measured sum cannot be less than its part; noise can make it look so, and a coarse clock like nothing.
            rest = max(seconds - (1 + _MIXING) * (self._decode_cost(num_decodes) or 0.0), seconds / 10, _LEAST_S)
            (self._mixed_s if num_decodes else self._alone_s).append(rest / num_prompt_tokens)
        self._num_mixed = self._num_mixed + 1 if num_decodes and num_prompt_tokens else 0

    def _token_cost(self, num_decodes: int) -> float | None:
        alone, mixed = _median(self._alone_s), _median(self._mixed_s)
        if not num_decodes or mixed is None:
            return alone
        return mixed if alone is None else min(mixed, _DEAREST * alone)

    def _decode_cost(self, num_decodes: int) -> float | None:
        """Of a step without prompts. Without streams there is none."""
        nearest = min(self._decode_s, key=lambda known: abs(known - num_decodes), default=None)
        return None if nearest is None or not num_decodes else median(self._decode_s[nearest])


def _median(values: Iterable[float]) -> float | None:
    known = tuple(values)
    return median(known) if known else None
