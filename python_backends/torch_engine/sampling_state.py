"""What the sampler keeps of one sequence between steps: its seed, its distinct tokens, its bans. Imports no torch."""

from __future__ import annotations

import hashlib
import secrets
import struct
from array import array
from collections.abc import Iterable, Iterator

from python_backends.torch_engine.sequence import Sequence


class SamplingState:
    """Made when the first token is drawn; from then on each step costs what is new, not what is there."""

    def __init__(self, sequence: Sequence, eos_token_ids: frozenset[int]) -> None:
        sampling = sequence.request.sampling
        # Without a seed the answer must differ from request to request, also after a restart.
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._seed = (seed + sequence.index) % 2**64
        self._ends = sorted(eos_token_ids | sampling.stop_token_ids)
        self._single_bad_words = [word[0] for word in sampling.bad_words_ids if len(word) == 1]
        self._longer_bad_words = [word for word in sampling.bad_words_ids if len(word) > 1]
        # Presence and frequency are about the output alone.
        self._first_counted = 0 if sampling.repetition_penalty != 1.0 else sequence.num_prompt_tokens
        self.history = History()

    def uniform(self, place: int) -> float:
        """A number in [0, 1) for the `place`-th output token, from the seed by BLAKE2 in counter mode.

        It depends on nothing else, so a seed gives the same text in any batch, at any row and after a preemption.
        """
        drawn = hashlib.blake2b(struct.pack("<QQ", self._seed, place), digest_size=8).digest()
        return float((int.from_bytes(drawn, "little") >> 11) / (1 << 53))

    def update_history(self, sequence: Sequence) -> History:
        """The history up to the newest token."""
        start, end = self._first_counted, sequence.num_prompt_tokens
        if start < end:
            self.history.add_prompt(sequence.tokens[start:end])
        self.history.add_output(sequence.tokens[max(start, end) :])
        self._first_counted = len(sequence.tokens)
        return self.history

    def bans(self, sequence: Sequence, may_end: bool) -> list[int]:
        """Tokens that must not come next: ends before min_tokens unless `may_end`, and ends of bad words."""
        sampling = sequence.request.sampling
        banned = set(self._single_bad_words)
        banned.update(self._due_bad_words(sequence))
        if sequence.num_output_tokens < sampling.min_tokens and not may_end:
            banned.update(self._ends)
        return sorted(banned)

    def _due_bad_words(self, sequence: Sequence) -> Iterator[int]:
        """The last token of a bad word is banned when the tokens before it have just been said."""
        for word in self._longer_bad_words:
            start = len(sequence.tokens) - len(word) + 1
            if start >= sequence.num_prompt_tokens and tuple(sequence.tokens[start:]) == word[:-1]:
                yield word[-1]


class History:
    """Distinct tokens, int64, and how often each is in the output, float32: arrays that grow in place."""

    def __init__(self) -> None:
        self.tokens = array("q")
        self.counts = array("f")
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add_prompt(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._place(token)

    def add_output(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.counts[self._place(token)] += 1

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self.tokens))
        if place == len(self.tokens):
            self.tokens.append(token)
            self.counts.append(0)
        return place
