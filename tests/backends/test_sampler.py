"""The sampler beside transformers' own processors and warpers, on random logits, many rows at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from python_backends.errors import BackendError, InternalFault, InvalidInput
from python_backends.torch_engine import filters
from python_backends.torch_engine.filters import Warps
from python_backends.torch_engine.sampler import Draw, Sampler, token_logprobs
from python_backends.torch_engine.sampling_batch import SamplingBatch
from python_backends.torch_engine.sampling_state import SamplingState
from python_backends.torch_engine.sequence import Sequence
from python_backends.types import GenerationRequest, SamplingParams, TokenEvent

VOCAB, EOS = 50, 7
PROMPT = (3, 4, 5, 3)
UNIFORMS = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


def silent(event: TokenEvent) -> None:
    """Nobody listens."""


def logits(seed: int = 0, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def sequence(output: list[int] | None = None, number: int = 0, **sampling: Any) -> Sequence:
    request = GenerationRequest(number, PROMPT, SamplingParams(**sampling))
    made = Sequence(request, silent, list(PROMPT), max_tokens=100)
    made.tokens += output or []
    return made


def new_sampler() -> Sampler:
    return Sampler(frozenset({EOS}))


def draws(rows: torch.Tensor, owners: list[Sequence], sampler: Sampler | None = None) -> list[int]:
    found = (sampler or new_sampler()).draw(rows, owners)
    for each in found:
        if isinstance(each, BackendError):
            raise each
    return [each.token_id for each in found if isinstance(each, Draw)]


def draw(row: torch.Tensor, owner: Sequence, sampler: Sampler | None = None) -> int:
    return draws(row, [owner], sampler)[0]


def shaped(rows: torch.Tensor, owners: list[Sequence]) -> torch.Tensor:
    """Logits after penalties, bias and bans, as greedy choice and draw see them."""
    batch = SamplingBatch(
        rows, list(range(len(owners))), [(each, SamplingState(each, frozenset({EOS}))) for each in owners]
    )
    batch.shape()
    return batch.scores


# The filters against those of transformers

TEMPERATURES = st.sampled_from([0.1, 0.7, 1.0, 1.8])
WARPED = st.fixed_dictionaries(
    {
        "temperature": TEMPERATURES,
        "top_k": st.sampled_from([-1, 0, 1, 2, 5, 20, VOCAB, VOCAB + 9]),
        "top_p": st.sampled_from([1e-6, 0.05, 0.6, 0.95, 0.9999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    }
)


def warped_by_transformers(row: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(given["temperature"])])
    if given["top_k"] > 0:
        warpers.append(TopKLogitsWarper(given["top_k"]))
    if given["top_p"] < 1.0:
        warpers.append(TopPLogitsWarper(given["top_p"]))
    if given["min_p"] > 0.0:
        warpers.append(MinPLogitsWarper(given["min_p"]))
    return torch.as_tensor(warpers(torch.tensor([PROMPT]), row[None].clone())[0])


@given(st.integers(0, 10**6), st.lists(WARPED, min_size=1, max_size=4), st.sampled_from([1, 3, 10, VOCAB]))
@settings(max_examples=25, deadline=None)
def test_drawn_tokens_are_those_that_transformers_leaves(seed: int, rows: list[dict[str, Any]], width: int) -> None:
    """Whatever the width, each row draws the tokens, as often, that transformers' warpers leave to it."""
    scores = logits(seed, len(rows))
    warps = Warps(*(torch.tensor([row[name] for row in rows]) for name in ("top_k", "top_p", "min_p")))
    tempered = scores / torch.tensor([row["temperature"] for row in rows])[:, None]
    each = torch.arange(len(rows)).repeat_interleave(len(UNIFORMS))
    drawn = filters.draw_warped(tempered[each], warps.of(each), UNIFORMS.repeat(len(rows)), width)
    for row, tokens, given_row in zip(scores, drawn.split(len(UNIFORMS)), rows, strict=True):
        check_frequencies(tokens, warped_by_transformers(row, given_row).softmax(-1))


def check_frequencies(drawn: torch.Tensor, probabilities: torch.Tensor) -> None:
    """Evenly spread uniforms draw each token in exactly its share, but for the rounding at both of its borders."""
    shares = torch.bincount(drawn, minlength=len(probabilities)) / len(drawn)
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=1.05 / len(drawn))


@pytest.mark.parametrize("width", [2, 3, VOCAB])
def test_tokens_as_likely_as_the_k_th_stay(width: int) -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0, -3.0]])
    warps = Warps(torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0]))
    every = torch.zeros(len(UNIFORMS), dtype=torch.long)
    found = filters.draw_warped(scores[every], warps.of(every), UNIFORMS, width)
    assert set(found.tolist()) == {0, 1, 2, 3}


def test_plain_draws_are_the_softmax() -> None:
    for row in logits(3, 2):
        check_frequencies(filters.draw(row.expand(len(UNIFORMS), -1), UNIFORMS), row.softmax(-1))


def test_what_is_banned_is_never_drawn_not_even_at_the_ends() -> None:
    scores = torch.full((1, 6), -torch.inf)
    scores[0, 2], scores[0, 4] = 1.0, 1.0
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert filters.draw(scores, torch.tensor([uniform], dtype=torch.float64)).item() in (2, 4)


SHAPED = st.fixed_dictionaries(
    {
        "output": st.lists(st.integers(0, VOCAB - 1), max_size=6),
        "repetition_penalty": st.sampled_from([1.0, 0.5, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 0.5, -1.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.25]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=3),
        "bad_words_ids": st.lists(st.lists(st.integers(10, 13), min_size=1, max_size=3).map(tuple), max_size=3).map(
            tuple
        ),
        "min_tokens": st.integers(0, 3),
        "stop_token_ids": st.frozensets(st.integers(8, 9)),
    }
)


def shaped_one_by_one(row: torch.Tensor, owner: Sequence) -> torch.Tensor:
    """The plain way: a loop, and transformers where it has the rule."""
    sampling, output = owner.request.sampling, owner.output_ids
    ids = torch.tensor([owner.tokens])
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, row[None].clone())[0]
    for token, count in Counter(output).items():
        scores[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    if sampling.bad_words_ids:
        words = [list(word) for word in dict.fromkeys(sampling.bad_words_ids)]
        ids = torch.tensor([output], dtype=torch.long)
        scores = NoBadWordsLogitsProcessor(words, eos_token_id=EOS)(ids, scores[None])[0]
    if len(output) < sampling.min_tokens:
        scores[[EOS, *sampling.stop_token_ids]] = -torch.inf
    return torch.as_tensor(scores)


@given(st.integers(0, 10**6), st.lists(SHAPED, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_penalties_bias_and_bans_are_those_of_transformers(seed: int, rows: list[dict[str, Any]]) -> None:
    owners = [sequence(number=number, **row) for number, row in enumerate(rows)]
    scores = logits(seed, len(rows))
    found = shaped(scores, owners)
    for place, owner in enumerate(owners):
        torch.testing.assert_close(found[place], shaped_one_by_one(scores[place], owner))
    torch.testing.assert_close(scores, logits(seed, len(rows)), rtol=0, atol=0)


def test_the_history_grows_with_its_sequence() -> None:
    sampler, owner = new_sampler(), sequence(temperature=0.0, frequency_penalty=0.5, repetition_penalty=1.5)
    for _ in range(12):
        expected = int(shaped_one_by_one(logits()[0], owner).argmax())
        owner.tokens.append(draw(logits(), owner, sampler))
        assert owner.tokens[-1] == expected
    assert len(set(owner.output_ids)) > 3


# Greedy


def test_greedy_is_the_likeliest_token_unless_something_weighs_on_it() -> None:
    best = int(logits().argmax())
    assert draw(logits(), sequence(temperature=0.0)) == best
    assert draw(logits(), sequence(temperature=1e-6)) == best
    assert draw(logits(), sequence(temperature=0.0, logit_bias={2: 100.0})) == 2
    assert draw(logits(), sequence(temperature=0.0, logit_bias={best: -100.0})) != best
    assert draw(logits(), sequence(temperature=0.0, bad_words_ids=((best,),))) != best
    assert draw(logits(), sequence(temperature=1.9, top_k=1)) == best


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_before_min_tokens(temperature: float) -> None:
    row = torch.full((1, VOCAB), -50.0)
    row[0, EOS], row[0, 8], row[0, 9] = 50.0, 40.0, 10.0
    ends = {"temperature": temperature, "min_tokens": 2, "stop_token_ids": frozenset({8})}
    assert [draw(row, sequence([1] * length, **ends)) for length in range(4)] == [9, 9, EOS, EOS]


# Seeds


def test_a_seed_gives_the_same_tokens_in_any_company_and_at_any_row() -> None:
    kinds: list[dict[str, Any]] = [
        {"temperature": 1.5},
        {"temperature": 1.5, "top_p": 0.9},
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": 40, "presence_penalty": 0.5},
    ]

    def tokens(kind: dict[str, Any], company: int, row: int) -> list[int]:
        sampler = new_sampler()
        ours = sequence(number=99, seed=5, **kind)
        for step in range(12):
            owners = [sequence([4] * step, number=other, **kinds[other % 4]) for other in range(company)]
            owners.insert(row, ours)
            rows = logits(1000 + step, company + 1)
            rows[row] = logits(step)[0]
            ours.tokens.append(draws(rows, owners, sampler)[row])
        return ours.output_ids

    for kind in kinds:
        assert tokens(kind, 0, 0) == tokens(kind, 3, 0) == tokens(kind, 7, 5)
    assert len(set(tokens(kinds[0], 0, 0))) > 5


def test_seeds_differ_and_no_seed_differs_each_time() -> None:
    def tokens(seed: int | None, index: int = 0) -> list[int]:
        sampler, owner = new_sampler(), sequence(seed=seed, temperature=2.0)
        owner.index = index
        for step in range(30):
            owner.tokens.append(draw(logits(step), owner, sampler))
        return owner.output_ids

    assert tokens(1) == tokens(1) != tokens(2)
    assert tokens(1, index=1) == tokens(2)
    assert tokens(None) != tokens(None)
    assert tokens(2**64 - 1) == tokens(2**64 - 1)
    assert tokens(2**64 - 1, index=1) == tokens(0)


def test_a_sequence_that_ended_leaves_nothing() -> None:
    sampler, owner = new_sampler(), sequence(seed=1)
    first = draw(logits(), owner, sampler)
    assert repr(sampler) == "<Sampler of 1 sequences>"
    sampler.forget(owner)
    assert repr(sampler) == "<Sampler of 0 sequences>"
    assert draw(logits(), owner, sampler) == first


def test_draws_follow_the_distribution() -> None:
    row = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    sampler, owner = new_sampler(), sequence(seed=3)
    for _ in range(1500):
        owner.tokens.append(draw(row, owner, sampler))
    counts = Counter(owner.output_ids)
    assert all(abs(counts[token] / 1500 - p) < 0.04 for token, p in enumerate((0.5, 0.3, 0.2)))


# What goes wrong in one row


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_when_bans_leave_nothing_only_that_request_is_told(temperature: float) -> None:
    everything = tuple((token,) for token in range(VOCAB))
    owners = [sequence(number=0, bad_words_ids=everything, temperature=temperature), sequence(number=1, seed=1)]
    bad, good = new_sampler().draw(logits(0, 2), owners)
    assert isinstance(bad, InvalidInput) and bad.field == "bad_words"
    assert isinstance(good, Draw)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_end_only_their_request(value: float, temperature: float) -> None:
    rows = logits(0, 3)
    rows[1, 4] = value
    owners = [sequence(number=number, temperature=temperature, seed=1, logprobs=True) for number in range(3)]
    found = new_sampler().draw(rows, owners)
    assert isinstance(found[1], InternalFault) and "not finite" in str(found[1])
    assert [isinstance(each, Draw) for each in found] == [True, False, True]


# Logprobs


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    rows = logits(0, 3)
    expected = rows.log_softmax(-1)
    settings_of = [{"top_logprobs": 3, "temperature": 0.3}, {"top_logprobs": 0}, {"top_logprobs": 20, "top_k": 1}]
    owners = [sequence(number=number, logprobs=True, seed=1, **kind) for number, kind in enumerate(settings_of)]
    found = new_sampler().draw(rows, [*owners[:2], owners[2]])
    for row, (each, kind) in enumerate(zip(found, settings_of, strict=True)):
        assert isinstance(each, Draw) and each.logprob is not None
        assert each.logprob.logprob == pytest.approx(float(expected[row, each.token_id]))
        best = expected[row].topk(kind["top_logprobs"])
        assert [token for token, _ in each.logprob.top] == best.indices.tolist()
        assert [value for _, value in each.logprob.top] == pytest.approx(best.values.tolist())


def test_only_who_asks_gets_logprobs() -> None:
    found = new_sampler().draw(logits(0, 2), [sequence(), sequence(number=1, logprobs=True)])
    assert [isinstance(each, Draw) and each.logprob is not None for each in found] == [False, True]
    assert token_logprobs(logits(), [11], [0])[0].top == ()
