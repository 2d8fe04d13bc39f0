"""The sampler beside transformers' own processors and warpers, on random logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from python_backends.errors import InvalidInput
from python_backends.torch_engine import sampler as module
from python_backends.torch_engine.sampler import Sampler, token_logprob
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent

VOCAB, EOS = 50, 7
PROMPT = (3, 4, 5, 3)


def silent(event: TokenEvent) -> None:
    """Nobody listens."""


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def sequence(output: list[int] | None = None, number: int = 0, **sampling: Any) -> Sequence:
    request = GenerationRequest(number, PROMPT, SamplingParams(**sampling))
    made = Sequence(request, silent, list(PROMPT), max_tokens=100)
    made.tokens += output or []
    return made


def new_sampler() -> Sampler:
    return Sampler(frozenset({EOS}), torch.device("cpu"))


def draw(row: torch.Tensor, owner: Sequence, sampler: Sampler | None = None) -> int:
    return (sampler or new_sampler()).draw(row, int(row.argmax()), owner)


WARPERS: list[tuple[Callable[..., torch.Tensor], Any, dict[str, float]]] = [
    (module._temperature, TemperatureLogitsWarper(0.7), {"temperature": 0.7}),
    (module._temperature, TemperatureLogitsWarper(1.8), {"temperature": 1.8}),
    (module._top_k, TopKLogitsWarper(1), {"top_k": 1}),
    (module._top_k, TopKLogitsWarper(5), {"top_k": 5}),
    (module._top_k, TopKLogitsWarper(VOCAB + 9), {"top_k": VOCAB + 9}),
    (module._top_p, TopPLogitsWarper(0.05), {"top_p": 0.05}),
    (module._top_p, TopPLogitsWarper(0.6), {"top_p": 0.6}),
    (module._top_p, TopPLogitsWarper(0.95), {"top_p": 0.95}),
    (module._min_p, MinPLogitsWarper(0.1), {"min_p": 0.1}),
    (module._min_p, MinPLogitsWarper(1.0), {"min_p": 1.0}),
]


@pytest.mark.parametrize(("ours", "theirs", "sampling"), WARPERS)
def test_a_warper_is_that_of_transformers(
    ours: Callable[..., torch.Tensor], theirs: Any, sampling: dict[str, float]
) -> None:
    for seed in range(20):
        row = logits(seed)
        expected = theirs(torch.tensor([PROMPT]), row[None].clone())[0]
        torch.testing.assert_close(ours(row, SamplingParams(**sampling)), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 2.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    owner = sequence([9, 9, 12], repetition_penalty=penalty)
    for seed in range(20):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([owner.tokens]), logits(seed)[None].clone())
        torch.testing.assert_close(module._penalise_repetition(logits(seed), owner), expected[0])


@pytest.mark.parametrize("output", [[], [10], [11], [10, 11], [10, 11, 12], [11, 10]])
def test_bad_words_are_those_of_transformers(output: list[int]) -> None:
    words = ((20,), (10, 21), (10, 11, 22), (11, 12, 23))
    owner = sequence(output, bad_words_ids=words)
    theirs = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=EOS)
    expected = theirs(torch.tensor([owner.tokens]), logits()[None].clone())[0]
    torch.testing.assert_close(module._ban_words(logits(), owner), expected)


def test_presence_and_frequency_count_the_output_only() -> None:
    owner = sequence([9, 9, 12], presence_penalty=0.5, frequency_penalty=0.25)
    expected = logits()
    expected[9] -= 2 * 0.25 + 0.5
    expected[12] -= 0.25 + 0.5
    torch.testing.assert_close(module._penalise_output(logits(), owner), expected)
    torch.testing.assert_close(module._penalise_output(logits(), sequence(presence_penalty=1.0)), logits())


def test_greedy_takes_the_most_likely_token_whatever_the_warpers() -> None:
    for seed in range(20):
        owner = sequence(temperature=0.0, top_k=3, top_p=0.1, min_p=0.5)
        assert draw(logits(seed), owner) == int(logits(seed).argmax())


def test_a_bias_can_force_and_forbid_a_token() -> None:
    best = int(logits().argmax())
    assert draw(logits(), sequence(temperature=0.0, logit_bias={2: 100.0})) == 2
    assert draw(logits(), sequence(temperature=0.0, logit_bias={best: -100.0})) != best
    torch.testing.assert_close(module._bias(logits(), sequence(logit_bias={2: 1.5}))[2], logits()[2] + 1.5)


def test_penalties_hold_for_greedy_too() -> None:
    row = torch.zeros(VOCAB)
    row[9], row[10] = 1.0, 0.9
    assert draw(row, sequence([9], temperature=0.0)) == 9
    assert draw(row, sequence([9], temperature=0.0, frequency_penalty=0.5)) == 10
    assert draw(row, sequence([9], temperature=0.0, repetition_penalty=2.0)) == 10


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_before_min_tokens(temperature: float) -> None:
    row = torch.full((VOCAB,), -50.0)
    row[EOS], row[8], row[9] = 50.0, 40.0, 10.0
    ends = {"temperature": temperature, "min_tokens": 2, "stop_token_ids": frozenset({8})}
    assert [draw(row, sequence([1] * length, **ends)) for length in range(4)] == [9, 9, EOS, EOS]


def test_a_seed_gives_the_same_tokens_in_any_company() -> None:
    def tokens(company: int) -> list[int]:
        sampler = new_sampler()
        ours = sequence(number=99, seed=5, temperature=1.5)
        drawn = []
        for step in range(30):
            for other in range(company):
                draw(logits(step), sequence(number=other, temperature=1.5), sampler)
            drawn.append(draw(logits(step), ours, sampler))
        return drawn

    assert tokens(0) == tokens(1) == tokens(7)
    assert len(set(tokens(0))) > 5


def test_seeds_differ_and_no_seed_differs_each_time() -> None:
    def tokens(seed: int | None) -> list[int]:
        sampler = new_sampler()
        return [draw(logits(step), sequence(seed=seed, temperature=2.0), sampler) for step in range(30)]

    assert tokens(1) == tokens(1) != tokens(2)
    assert tokens(None) != tokens(None)
    assert tokens(2**64 - 1) == tokens(2**64 - 1)


def test_a_sequence_that_ended_leaves_no_generator() -> None:
    sampler = new_sampler()
    owner = sequence(seed=1)
    first = draw(logits(), owner, sampler)
    sampler.forget(owner)
    assert draw(logits(), owner, sampler) == first


def test_draws_follow_the_distribution() -> None:
    row = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    sampler = new_sampler()
    owner = sequence(seed=3)
    counts = Counter(sampler.draw(row, 0, owner) for _ in range(3000))
    assert all(abs(counts[token] / 3000 - p) < 0.03 for token, p in enumerate((0.5, 0.3, 0.2)))


def test_the_callers_logits_are_left_alone() -> None:
    row = logits()
    everything = {
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "presence_penalty": 1.0,
        "logit_bias": {1: 5.0},
        "bad_words_ids": ((4,),),
        "min_tokens": 9,
    }
    draw(row, sequence([9, 9], **everything))
    torch.testing.assert_close(row, logits(), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_when_bans_leave_nothing_the_request_is_told(temperature: float) -> None:
    everything = tuple((token,) for token in range(VOCAB))
    with pytest.raises(InvalidInput, match="no token to choose"):
        draw(logits(), sequence(temperature=temperature, bad_words_ids=everything))


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    row = logits()
    expected = row.log_softmax(-1)
    found = token_logprob(row, 11, 3)
    assert found.logprob == pytest.approx(float(expected[11]))
    assert [token for token, _ in found.top] == expected.topk(3).indices.tolist()
    assert [value for _, value in found.top] == pytest.approx(expected.topk(3).values.tolist())
    assert token_logprob(row, 11, 0).top == ()
