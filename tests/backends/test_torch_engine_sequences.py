"""Several sequences per request, and guides, in the torch engine with random weights."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from python_backends.engine import EngineOptions
from python_backends.errors import InvalidInput
from python_backends.torch_engine.engine import TorchEngine
from python_backends.torch_engine.scheduler import Scheduler
from python_backends.torch_engine.sequence import Sequence
from python_backends.torch_engine.slots import SlotPool
from python_backends.types import FinishReason, GenerationRequest, Guide, SamplingParams, TokenEvent
from tests.backends.tiny import byte_level_tokenizer, save_tokenizer

TOKENIZER = byte_level_tokenizer()
PROMPT = tuple(TOKENIZER.encode("the quick brown fox").ids)
OTHER = tuple(TOKENIZER.encode("def stop(self)").ids)
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4
STOP, LENGTH, ABORT = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT


class Listener:
    """The events of one request, by sequence. `n` of them must end, or one error come."""

    def __init__(self, n: int = 1) -> None:
        self.events: list[list[TokenEvent]] = [[] for _ in range(n)]
        self.errors: list[BaseException] = []
        self.over, self.started = threading.Event(), threading.Event()

    def __call__(self, event: TokenEvent) -> None:
        assert not self.over.is_set(), "an event after the end"
        self.events[event.index].append(event)
        self.started.set()
        if event.error is not None:
            self.errors.append(event.error)
        if self.errors or all(said and said[-1].finish_reason for said in self.events):
            self.over.set()

    def wait(self) -> Listener:
        assert self.over.wait(120), "the request did not end"
        return self

    @property
    def tokens(self) -> list[list[int]]:
        return [[each.token_id for each in said if each.token_id is not None] for said in self.events]

    @property
    def texts(self) -> list[str]:
        kept = [
            [e.token_id for e in said if e.token_id is not None and e.stop_token_id is None] for said in self.events
        ]
        return [TOKENIZER.decode(ids, skip_special_tokens=False) for ids in kept]

    @property
    def reasons(self) -> list[FinishReason | None]:
        return [said[-1].finish_reason for said in self.events]

    @property
    def num_cached(self) -> set[int]:
        return {each.num_cached_tokens for said in self.events for each in said}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_tokenizer(tmp_path_factory.mktemp("sequences"))
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=TOKENIZER.get_vocab_size() + 8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=[TOKENIZER.token_to_id("<|im_end|>"), TOKENIZER.token_to_id("<|endoftext|>")],
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@contextmanager
def running(checkpoint: str, **options: Any) -> Iterator[TorchEngine]:
    engine = TorchEngine(EngineOptions(checkpoint, **{"dtype": "float32", "kv_cache_bytes": 1 << 22, **options}))
    try:
        yield engine
    finally:
        engine.close()


def ask(engine: TorchEngine, number: int, prompt: tuple[int, ...] = PROMPT, **sampling: Any) -> Listener:
    listener = Listener(sampling.get("n", 1))
    params = SamplingParams(**{"max_tokens": 8, "ignore_eos": True, **sampling})
    engine.submit(GenerationRequest(number, prompt, params), listener)
    return listener


# Several sequences of one prompt


def test_greedy_sequences_are_equal_and_seeded_ones_are_those_of_seed_plus_index(checkpoint: str) -> None:
    drawn: dict[str, Any] = {"temperature": 1.3, "top_p": 0.95, "n": 3}
    with running(checkpoint) as engine:
        [alone] = ask(engine, 0, temperature=0.0).wait().tokens
        greedy = ask(engine, 1, temperature=0.0, n=4)
        several, others = ask(engine, 2, seed=7, **drawn), ask(engine, 3, OTHER, n=2, temperature=1.0)
        assert greedy.wait().tokens == [alone] * 4
        found = several.wait().tokens
        others.wait()
        solo = [ask(engine, 4 + i, seed=7 + i, **{**drawn, "n": 1}).wait().tokens[0] for i in range(3)]
        assert found == solo
        assert len({tuple(tokens) for tokens in found}) == 3
        assert greedy.reasons == [LENGTH] * 4
        assert engine.scheduler.num_running == engine.scheduler.num_waiting == 0
        engine.scheduler.pool.check_integrity()


@pytest.mark.parametrize("caching", [True, False])
def test_the_prompt_is_computed_once(caching: bool) -> None:
    pool = SlotPool(4, 200, caching)
    scheduler = Scheduler(pool, 64, 8)
    request = GenerationRequest(0, PROMPT, SamplingParams(n=3, max_tokens=4))
    parent = Sequence(request, lambda event: None, list(PROMPT), 4)
    scheduler.add(parent)
    forks: list[Sequence] = []
    num_computed = 0
    for _ in range(6):
        step = scheduler.schedule()
        for chunk in step.chunks:
            num_computed += chunk.num_tokens
            scheduler.commit(chunk)
        if parent.num_computed == len(PROMPT) and not forks:
            forks = [parent.fork(index) for index in parent.unforked]
            for fork in forks:
                scheduler.add_fork(fork)
                fork.tokens.append(9 + fork.index)
        for chunk in step.chunks:
            if chunk.sequence.num_uncomputed == 0:
                chunk.sequence.tokens.append(5)
    assert len(forks) == 2 and not parent.unforked
    num_output = sum(each.num_output_tokens - each.num_uncomputed for each in (parent, *forks))
    assert num_computed == len(PROMPT) + num_output
    assert len({each.id for each in (parent, *forks)}) == 3


def test_only_what_other_requests_left_counts_as_cached(checkpoint: str) -> None:
    with running(checkpoint) as engine:
        assert ask(engine, 0, n=3).wait().num_cached == {0}
        assert ask(engine, 1, n=3).wait().num_cached == {len(PROMPT) - 1}
    with running(checkpoint, enable_prefix_caching=False) as engine:
        assert [ask(engine, number, n=2).wait().num_cached for number in range(2)] == [{0}, {0}]


def test_each_sequence_ends_by_itself(checkpoint: str) -> None:
    with running(checkpoint) as engine:
        listener = ask(engine, 0, n=4, seed=1, temperature=1.5, max_tokens=12)
        first = {tokens[2] for tokens in listener.wait().tokens}
        some = frozenset(sorted(first)[:2])
        stopped = ask(engine, 1, n=4, seed=1, temperature=1.5, max_tokens=12, stop_token_ids=some).wait()
        for tokens, whole, said in zip(stopped.tokens, listener.tokens, stopped.events, strict=True):
            ends = [place for place, token in enumerate(whole) if token in some]
            assert tokens == (whole[: ends[0] + 1] if ends else whole)
            assert said[-1].finish_reason is (STOP if ends else LENGTH)


def test_more_sequences_than_slots_wait_their_turn_and_preempted_ones_go_on(checkpoint: str) -> None:
    small = {"kv_cache_bytes": (len(PROMPT) + 40) * BYTES_PER_TOKEN, "max_num_batched_tokens": 8}
    wanted: dict[str, Any] = {"n": 4, "seed": 3, "temperature": 1.2, "max_tokens": 16}
    with running(checkpoint) as engine:
        expected = ask(engine, 0, **wanted).wait().tokens
    with running(checkpoint, **small) as engine:
        assert ask(engine, 0, **wanted).wait().tokens == expected
        assert engine.scheduler.num_preemptions > 0, "the cache was large enough for all"
    with running(checkpoint, max_num_seqs=2) as engine:
        first, second = ask(engine, 0, **{**wanted, "n": 2}), ask(engine, 1, OTHER, n=2)
        assert first.wait().tokens == expected[:2]
        assert second.wait().reasons == [LENGTH, LENGTH]


def test_more_sequences_than_may_run_are_refused(checkpoint: str) -> None:
    with running(checkpoint, max_num_seqs=3) as engine:
        with pytest.raises(InvalidInput, match="at most 3, got 4") as caught:
            ask(engine, 0, n=4)
        assert caught.value.field == "num_return_sequences"


def test_cancel_ends_one_sequence_or_all(checkpoint: str) -> None:
    endless: dict[str, Any] = {"max_tokens": None, "temperature": 0.0, "n": 3}
    with running(checkpoint) as engine:
        listener = ask(engine, 0, **endless)
        assert listener.started.wait(60)
        engine.cancel(0, 1)
        listener.wait()
        assert listener.reasons == [LENGTH, ABORT, LENGTH]
        all_of_it = ask(engine, 1, **endless)
        assert all_of_it.started.wait(60)
        engine.cancel(1)
        assert all_of_it.wait().reasons == [ABORT] * 3


def test_a_request_that_is_cancelled_before_its_prompt_is_read_ends_all_its_sequences(checkpoint: str) -> None:
    with running(checkpoint, max_num_seqs=3) as engine:
        busy = [ask(engine, number, max_tokens=None, temperature=0.0) for number in range(3)]
        waiting = ask(engine, 9, n=3)
        engine.cancel(9)
        assert waiting.wait().reasons == [ABORT] * 3
        assert waiting.tokens == [[], [], []]
        for number, listener in enumerate(busy):
            engine.cancel(number)
            listener.wait()


def test_a_failure_ends_the_request_once(checkpoint: str) -> None:
    everything = tuple((token,) for token in range(TOKENIZER.get_vocab_size() + 8))
    with running(checkpoint) as engine:
        good, bad = ask(engine, 0, temperature=0.0), ask(engine, 1, OTHER, n=3, bad_words_ids=everything)
        bad.wait()
        good.wait()
        assert [type(error) for error in bad.errors] == [InvalidInput]
        assert good.reasons == [LENGTH]
        assert engine.scheduler.num_running == engine.scheduler.num_waiting == 0


# Guides

AGE = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMA = Guide("json_schema", json.dumps(AGE))
CHOICE = Guide("choice", '["yes", "no", "perhaps"]')


def test_guided_and_unguided_sequences_share_their_steps(checkpoint: str) -> None:
    guided: dict[str, Any] = {"guide": SCHEMA, "max_tokens": 400, "ignore_eos": False}
    with running(checkpoint) as engine:
        free = [{"temperature": 0.0, "max_tokens": 40}, {"seed": 5, "temperature": 1.0, "max_tokens": 40}]
        alone = [ask(engine, number, **kind).wait().tokens for number, kind in enumerate(free)]
        greedy = ask(engine, 10, OTHER, temperature=0.0, **guided)
        neighbours = [ask(engine, 20 + number, **kind) for number, kind in enumerate(free)]
        several = ask(engine, 11, n=3, seed=1, temperature=1.5, logprobs=True, **guided)
        choice = ask(engine, 12, n=3, seed=2, temperature=2.0, guide=CHOICE, ignore_eos=False)
        for text in (*greedy.wait().texts, *several.wait().texts):
            found = json.loads(text)
            assert list(found) == ["name", "age"] and 0 <= found["age"] <= 99
        assert greedy.reasons + several.reasons == [STOP] * 4
        assert len(set(several.texts)) == 3
        assert all(each.logprob is not None for said in several.events for each in said)
        assert set(choice.wait().texts) <= {"yes", "no", "perhaps"}
        assert [neighbour.wait().tokens for neighbour in neighbours] == alone


def test_a_guided_sequence_goes_on_after_preemption_and_may_be_cut(checkpoint: str) -> None:
    guided: dict[str, Any] = {"guide": SCHEMA, "max_tokens": 60, "ignore_eos": False, "seed": 4, "n": 3}
    small = {"kv_cache_bytes": (len(PROMPT) + 70) * BYTES_PER_TOKEN, "max_num_batched_tokens": 8}
    with running(checkpoint) as engine:
        expected = ask(engine, 0, **guided).wait().tokens
        cut = ask(engine, 1, **{**guided, "max_tokens": 3}).wait()
        assert cut.reasons == [LENGTH] * 3
        assert cut.tokens == [tokens[:3] for tokens in expected]
    with running(checkpoint, **small) as engine:
        assert ask(engine, 0, **guided).wait().tokens == expected
        assert engine.scheduler.num_preemptions > 0, "the cache was large enough for all"


def test_a_wrong_guide_is_refused_at_the_door(checkpoint: str) -> None:
    with running(checkpoint) as engine:
        with pytest.raises(InvalidInput) as caught:
            ask(engine, 0, guide=Guide("regex", "("))
        assert caught.value.field == "guided_decoding_guide"
        assert dataclasses.asdict(CHOICE) == {"kind": "choice", "text": CHOICE.text}
