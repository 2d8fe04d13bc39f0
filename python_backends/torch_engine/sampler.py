"""From logits to the next token of each sequence, by small filters in Hugging Face's order, then a draw.

Each filter is a function of one row of logits and of the sequence; a new rule is a new function in `_FILTERS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from python_backends.errors import InvalidInput
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import SamplingParams, TokenLogprob

Filter = Callable[[torch.Tensor, Sequence], torch.Tensor]


class Sampler:
    """Draws tokens; keeps one random generator per sequence, so a seed gives the same text in any company."""

    def __init__(self, eos_token_ids: frozenset[int], device: torch.device) -> None:
        self._eos_token_ids = eos_token_ids
        self._device = device
        self._generators: dict[int, torch.Generator] = {}

    def draw(self, row: torch.Tensor, likeliest: int, sequence: Sequence) -> int:
        """The next token from its logits [vocabulary] float32, of which `likeliest` is the greatest."""
        if _plain(sequence):
            return likeliest
        sampling = sequence.request.sampling
        row = self._without_early_end(row, sequence)
        for apply in _FILTERS:
            row = apply(row, sequence)
        if not row.max().isfinite():
            raise InvalidInput("bans leave no token to choose", "bad_words")
        if sampling.greedy:
            return int(row.argmax())
        for warp in _WARPERS:
            row = warp(row, sampling)
        return int(torch.multinomial(row.softmax(-1), 1, generator=self._generator(sequence)))

    def forget(self, sequence: Sequence) -> None:
        self._generators.pop(sequence.id, None)

    def _without_early_end(self, row: torch.Tensor, sequence: Sequence) -> torch.Tensor:
        sampling = sequence.request.sampling
        if sequence.num_output_tokens >= sampling.min_tokens:
            return row
        return _banned(row, self._eos_token_ids | sampling.stop_token_ids)

    def _generator(self, sequence: Sequence) -> torch.Generator:
        if sequence.id not in self._generators:
            generator = torch.Generator(self._device)
            seed = sequence.request.sampling.seed
            # Without a seed the answer must differ from request to request, also after a restart.
            generator.seed() if seed is None else generator.manual_seed(seed)
            self._generators[sequence.id] = generator
        return self._generators[sequence.id]


def token_logprob(row: torch.Tensor, token_id: int, num_top: int) -> TokenLogprob:
    """log p of `token_id` and of the `num_top` most likely tokens under the unmodified logits [vocabulary]."""
    logprobs = row.log_softmax(-1)
    top = logprobs.topk(num_top) if num_top else None
    pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)) if top else ()
    return TokenLogprob(float(logprobs[token_id]), pairs)


def _plain(sequence: Sequence) -> bool:
    """Nothing but the most likely token is asked for."""
    sampling = sequence.request.sampling
    touched = (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.logit_bias
        or sampling.bad_words_ids
        or sequence.num_output_tokens < sampling.min_tokens
    )
    return sampling.greedy and not touched


def _penalise_repetition(row: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """Hugging Face's RepetitionPenaltyLogitsProcessor: over prompt and output, negative logits are multiplied."""
    penalty = sequence.request.sampling.repetition_penalty
    if penalty == 1.0:
        return row
    seen = torch.tensor(sorted(set(sequence.tokens)), device=row.device)
    scores = row[seen]
    return row.index_put((seen,), torch.where(scores < 0, scores * penalty, scores / penalty))


def _penalise_output(row: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """OpenAI's rule: logit - count * frequency_penalty - (count > 0) * presence_penalty, over the output only."""
    sampling = sequence.request.sampling
    if not (sampling.presence_penalty or sampling.frequency_penalty) or not sequence.num_output_tokens:
        return row
    counts = torch.bincount(torch.tensor(sequence.output_ids, device=row.device))
    seen = counts.nonzero()[:, 0]
    return row.index_put((seen,), row[seen] - counts[seen] * sampling.frequency_penalty - sampling.presence_penalty)


def _bias(row: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    bias = sequence.request.sampling.logit_bias
    if not bias:
        return row
    ids = torch.tensor(list(bias), device=row.device)
    return row.index_put((ids,), row[ids] + torch.tensor(list(bias.values()), device=row.device))


def _ban_words(row: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """The last token of a bad word is banned when the tokens before it have just been said."""
    output = sequence.output_ids
    due = {
        word[-1]
        for word in sequence.request.sampling.bad_words_ids
        if len(word) == 1 or tuple(output[1 - len(word) :]) == word[:-1]
    }
    return _banned(row, frozenset(due))


def _banned(row: torch.Tensor, token_ids: frozenset[int]) -> torch.Tensor:
    if not token_ids:
        return row
    ids = torch.tensor(sorted(token_ids), device=row.device)
    return row.index_fill(0, ids, -torch.inf)


def _temperature(row: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    return row / sampling.temperature


def _top_k(row: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    if sampling.top_k <= 0 or sampling.top_k >= row.shape[-1]:
        return row
    return row.masked_fill(row < row.topk(sampling.top_k).values[-1], -torch.inf)


def _top_p(row: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """The smallest set of most likely tokens whose probabilities sum to at least top_p."""
    if sampling.top_p >= 1.0:
        return row
    ordered, indices = row.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return row.index_fill(0, indices[before >= sampling.top_p], -torch.inf)


def _min_p(row: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    if sampling.min_p == 0.0:
        return row
    probabilities = row.softmax(-1)
    return row.masked_fill(probabilities < sampling.min_p * probabilities.max(), -torch.inf)


_FILTERS: tuple[Filter, ...] = (_penalise_repetition, _penalise_output, _bias, _ban_words)
_WARPERS: tuple[Callable[[torch.Tensor, SamplingParams], torch.Tensor], ...] = (_temperature, _top_k, _top_p, _min_p)
