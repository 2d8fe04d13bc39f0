"""The torch engine against `generate`, token for token: random weights, float32, greedy, every way a batch can go."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from python_backends.engine import EngineOptions, create_engine
from python_backends.errors import BackendError, ContextOverflow, DependencyDown, InternalFault, InvalidInput, QueueFull
from python_backends.torch_engine.engine import TorchEngine
from python_backends.types import FinishReason, GenerationRequest, ImageSpan, SamplingParams, TokenEvent
from tests.backends.families import (
    BYTES_PER_TOKEN,
    EOS,
    FAMILIES,
    IMAGE,
    MAX_LEN,
    VISION_END,
    VISION_FAMILIES,
    VISION_START,
    Family,
    Prompt,
    parameters,
    picture,
    picture_prompt,
    text_prompt,
)

NUM_TOKENS = 12
GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS)


class Listener:
    """Collects the events of one request. `watch` runs on the engine's thread, where its state may be looked at."""

    def __init__(self, watch: Callable[[], None] | None = None) -> None:
        self.events: list[TokenEvent] = []
        self.over = threading.Event()
        self.started = threading.Event()
        self._watch = watch

    def __call__(self, event: TokenEvent) -> None:
        self.events.append(event)
        self.started.set()
        if self._watch:
            self._watch()
        if event.finish_reason is not None or event.error is not None:
            self.over.set()

    def wait(self) -> Listener:
        assert self.over.wait(60), "the request did not end"
        return self

    @property
    def tokens(self) -> list[int]:
        return [event.token_id for event in self.events if event.token_id is not None]

    @property
    def num_cached(self) -> int:
        return self.events[-1].num_cached_tokens


@pytest.fixture(scope="module")
def make_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def make(name: str) -> Family:
        if name not in made:
            made[name] = Family(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(params=parameters(FAMILIES))
def family(request: pytest.FixtureRequest, make_family: Callable[[str], Family]) -> Family:
    return make_family(request.param)


@pytest.fixture(params=parameters(VISION_FAMILIES))
def seeing(request: pytest.FixtureRequest, make_family: Callable[[str], Family]) -> Family:
    return make_family(request.param)


@pytest.fixture
def qwen2(make_family: Callable[[str], Family]) -> Family:
    return make_family("qwen2")


@contextmanager
def running(family: Family, **options: Any) -> Iterator[TorchEngine]:
    engine = TorchEngine(
        EngineOptions(str(family.folder), **{"dtype": "float32", "kv_cache_bytes": 1 << 22, **options})
    )
    try:
        yield engine
    finally:
        engine.close()


def request_of(family: Family, number: int, prompt: Prompt, sampling: SamplingParams = GREEDY) -> GenerationRequest:
    return GenerationRequest(number, prompt.ids, sampling, family.spans(prompt))


def run(
    engine: TorchEngine,
    family: Family,
    prompts: list[Prompt],
    sampling: SamplingParams = GREEDY,
    watch: Callable[[], None] | None = None,
) -> list[Listener]:
    """All prompts at once; returns when all are over."""
    listeners = [Listener(watch) for _ in prompts]
    for number, (prompt, listener) in enumerate(zip(prompts, listeners, strict=True)):
        engine.submit(request_of(family, number, prompt, sampling), listener)
    return [listener.wait() for listener in listeners]


def check_equal(family: Family, prompts: list[Prompt], listeners: list[Listener]) -> None:
    for prompt, listener in zip(prompts, listeners, strict=True):
        assert listener.events[-1].error is None
        assert listener.tokens == family.generate(prompt, NUM_TOKENS)
        expected = FinishReason.STOP if listener.tokens[-1] == EOS else FinishReason.LENGTH
        assert listener.events[-1].finish_reason is expected
        assert all(event.finish_reason is None for event in listener.events[:-1])


def mixed_prompts(family: Family, count: int) -> list[Prompt]:
    """Lengths from 1 to 40; every third has one or two pictures where the family sees."""
    prompts = [text_prompt(seed, 1 + seed * 17 % 40) for seed in range(count)]
    if not family.sees:
        return prompts
    for place in range(0, count, 3):
        first = (prompts[place], picture(place), text_prompt(70 + place, 3))
        second = (picture(50 + place, 2, 6), text_prompt(80 + place, 2))
        prompts[place] = picture_prompt(*first, *second) if place % 2 else picture_prompt(*first)
    return prompts


def idle(engine: TorchEngine) -> str:
    """The scheduler's state once it has nothing more to do."""
    deadline = time.monotonic() + 10
    while engine.scheduler.has_work and time.monotonic() < deadline:
        time.sleep(0.002)
    engine.scheduler.pool.check_integrity()
    return repr(engine.scheduler).split(" tokens")[0].rsplit(",", 1)[0]


# Equality with generate


def test_the_oracle_varies(family: Family) -> None:
    outputs = [family.generate(prompt, NUM_TOKENS) for prompt in mixed_prompts(family, 4)]
    assert len({tuple(output) for output in outputs}) == 4
    assert len({token for output in outputs for token in output}) >= 15


def test_alone(family: Family) -> None:
    prompts = mixed_prompts(family, 4)
    with running(family) as engine:
        for prompt in prompts:
            check_equal(family, [prompt], run(engine, family, [prompt]))


def test_sixteen_at_once(family: Family) -> None:
    prompts = mixed_prompts(family, 16)
    with running(family) as engine:
        check_equal(family, prompts, run(engine, family, prompts))
        assert idle(engine) == "<Scheduler 0 waiting, 0 running, <SlotPool 0/64 slots in use"


@pytest.mark.parametrize("budget", [1, 5])
def test_in_chunks(family: Family, budget: int) -> None:
    prompts = mixed_prompts(family, 4)
    with running(family, max_num_batched_tokens=budget) as engine:
        check_equal(family, prompts, run(engine, family, prompts))


@pytest.mark.parametrize("caching", [True, False])
def test_after_preemption(family: Family, caching: bool) -> None:
    prompts = mixed_prompts(family, 16)
    longest = max(len(prompt.ids) for prompt in prompts) + NUM_TOKENS
    preempted: set[int] = set()
    options = {"kv_cache_bytes": longest * family.bytes_per_token, "enable_prefix_caching": caching}
    with running(family, max_num_batched_tokens=16, **options) as engine:

        def watch() -> None:
            preempted.update(each.id for each in engine.scheduler.sequences if each.num_preemptions)

        check_equal(family, prompts, run(engine, family, prompts, watch=watch))
    assert preempted, "the cache was large enough for all"


@pytest.mark.parametrize("caching", [True, False])
def test_with_and_without_the_prefix_cache(family: Family, caching: bool) -> None:
    shared = text_prompt(1, 24)
    parts = [shared, picture(1), text_prompt(2, 2)] if family.sees else [shared]
    prompts = [picture_prompt(*parts, text_prompt(seed, 3 + seed)) for seed in range(3, 7)]
    with running(family, enable_prefix_caching=caching) as engine:
        first = run(engine, family, prompts[:1])
        others = run(engine, family, prompts[1:])
        again = run(engine, family, prompts)
    check_equal(family, prompts, first + others)
    check_equal(family, prompts, again)
    num_shared = len(picture_prompt(*parts).ids)
    assert first[0].num_cached == 0
    assert all((listener.num_cached >= num_shared) is caching for listener in others)
    assert [listener.num_cached for listener in again] == [len(p.ids) - 1 if caching else 0 for p in prompts]


def test_a_conversation_goes_on_from_its_cache(family: Family) -> None:
    prompt = mixed_prompts(family, 4)[3]
    with running(family) as engine:
        [answer] = run(engine, family, [prompt])
        longer = Prompt((*prompt.ids, *answer.tokens, *text_prompt(9, 5).ids), prompt.pictures)
        [next_answer] = run(engine, family, [longer])
    check_equal(family, [longer], [next_answer])
    assert next_answer.num_cached == len(prompt.ids) + len(answer.tokens) - 1


def test_a_running_neighbour_is_a_source_too(qwen2: Family) -> None:
    long, same = text_prompt(3, 20), text_prompt(3, 20)
    with running(qwen2) as engine:
        slow, late = Listener(), Listener()
        engine.submit(request_of(qwen2, 0, long, dataclasses.replace(GREEDY, max_tokens=200, ignore_eos=True)), slow)
        assert slow.started.wait(30)
        engine.submit(request_of(qwen2, 1, same), late)
        check_equal(qwen2, [same], [late.wait()])
        engine.cancel(0)
        slow.wait()
    assert late.num_cached == 19


# Images and the cache


def test_another_picture_is_not_taken_for_the_first(seeing: Family) -> None:
    start, question = text_prompt(1, 10), text_prompt(2, 6)
    prompts = [picture_prompt(start, picture(seed), question) for seed in (1, 2)]
    with running(seeing) as engine:
        listeners = [run(engine, seeing, [prompt])[0] for prompt in prompts]
    check_equal(seeing, prompts, listeners)
    assert listeners[0].tokens != listeners[1].tokens
    assert listeners[1].num_cached == len(start.ids) + 1, "all before the image, and nothing of it"


def test_equal_features_on_another_grid_are_another_image(seeing: Family) -> None:
    ids = (5, VISION_START, *[IMAGE] * 4, VISION_END, 6, 7, 8)
    features = np.array(seeing.spans(picture_prompt(picture(1)))[0].features)
    spans = [ImageSpan(2, features, grid, b"same") for grid in ((1, 4, 4), (1, 2, 8))]
    with running(seeing) as engine:
        listeners = []
        for number, span in enumerate(spans):
            listeners.append(Listener())
            engine.submit(GenerationRequest(number, ids, GREEDY, (span,)), listeners[-1])
            listeners[-1].wait()
    assert listeners[1].num_cached == 2


def test_read_only_features_are_taken_without_a_warning(seeing: Family) -> None:
    prompt = picture_prompt(text_prompt(1, 3), picture(1), text_prompt(2, 3))
    [span] = seeing.spans(prompt)
    flat = np.frombuffer(span.features.tobytes(), np.float32)
    frozen = dataclasses.replace(span, features=flat.reshape(span.features.shape))
    listener = Listener()
    with running(seeing) as engine:
        engine.submit(GenerationRequest(0, prompt.ids, GREEDY, (frozen,)), listener)
        check_equal(seeing, [prompt], [listener.wait()])


# Images whose tokens see each other


@pytest.fixture
def gemma3(make_family: Callable[[str], Family]) -> Family:
    return make_family("gemma3")


# Of 16 tokens, more than the window and the budget of some tests.
LARGE = picture(3, 8, 8)


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_a_large_image_is_seen_whole_by_its_tokens(gemma3: Family, budget: int) -> None:
    first = picture_prompt(LARGE, text_prompt(4, 5))
    prompts = [first, picture_prompt(text_prompt(5, 9), picture(1), text_prompt(6, 1), LARGE, text_prompt(7, 2))]
    with running(gemma3, max_num_batched_tokens=budget) as engine:
        check_equal(gemma3, prompts, run(engine, gemma3, prompts))
        check_equal(gemma3, prompts, run(engine, gemma3, prompts))


@pytest.mark.parametrize("budget", [1, 64])
def test_a_prompt_may_begin_and_end_with_an_image(gemma3: Family, budget: int) -> None:
    begins = Prompt((*[IMAGE] * 16, 5, 6, 7), (LARGE,))
    ends = Prompt((VISION_START, 8, *[IMAGE] * 16), (LARGE,))
    with running(gemma3, max_num_batched_tokens=budget) as engine:
        for number, (prompt, start) in enumerate([(begins, 0), (ends, 2)] * 2):
            listener = Listener()
            engine.submit(GenerationRequest(number, prompt.ids, GREEDY, (gemma3.span(start, LARGE),)), listener)
            check_equal(gemma3, [prompt], [listener.wait()])
            assert listener.num_cached == (0, 0, 18, 2)[number], "an image at the end is computed again, and whole"


def test_further_sequences_read_their_image_whole_after_preemption(gemma3: Family) -> None:
    prompt = picture_prompt(text_prompt(1, 4), LARGE, text_prompt(2, 1))
    sampling = dataclasses.replace(GREEDY, n=4, ignore_eos=True)
    listeners = [Listener() for _ in range(4)]
    cache_bytes = (2 * len(prompt.ids) + 10) * gemma3.bytes_per_token
    with running(gemma3, kv_cache_bytes=cache_bytes, max_num_batched_tokens=4, enable_prefix_caching=False) as engine:
        request = request_of(gemma3, 0, prompt, sampling)
        engine.submit(request, lambda event: listeners[event.index](event))
        assert [listener.wait().tokens for listener in listeners] == [gemma3.generate(prompt, NUM_TOKENS)] * 4
        assert engine.scheduler.num_preemptions, "the cache was large enough for all"


def test_images_without_a_token_between_them_are_one(gemma3: Family) -> None:
    pairs = [(picture(1), picture(2)), (picture(1), picture(3)), (picture(1),), (picture(1), picture(2))]
    with running(gemma3) as engine:
        for number, pair in enumerate(pairs):
            prompt = Prompt((5, 6, *[IMAGE] * 4 * len(pair), 7, 8), pair)
            images = tuple(gemma3.span(2 + 4 * place, each) for place, each in enumerate(pair))
            listener = Listener()
            engine.submit(GenerationRequest(number, prompt.ids, GREEDY, images), listener)
            check_equal(gemma3, [prompt], [listener.wait()])
            assert listener.num_cached == (0, 2, 2, 11)[number]


# Requests that do not go well


def refused(engine: TorchEngine, request: GenerationRequest) -> BackendError:
    with pytest.raises(BackendError) as caught:
        engine.submit(request, Listener())
    return caught.value


def test_what_cannot_be_served_is_refused_at_the_door(qwen2: Family) -> None:
    with running(qwen2) as engine:
        assert isinstance(refused(engine, request_of(qwen2, 0, text_prompt(1, MAX_LEN))), ContextOverflow)
        too_many = SamplingParams(max_tokens=MAX_LEN + 1)
        assert isinstance(refused(engine, request_of(qwen2, 0, text_prompt(1, 5), too_many)), ContextOverflow)
        for ids in ((), (-1,), (96,)):
            assert isinstance(refused(engine, GenerationRequest(0, ids, GREEDY)), InvalidInput)
        for sampling in (SamplingParams(logit_bias={96: 1.0}), SamplingParams(stop_token_ids=frozenset({96}))):
            assert isinstance(refused(engine, request_of(qwen2, 0, text_prompt(1, 5), sampling)), InvalidInput)
        assert idle(engine) == "<Scheduler 0 waiting, 0 running, <SlotPool 0/64 slots in use"


def test_a_prompt_that_the_cache_can_never_hold_is_refused(qwen2: Family) -> None:
    with running(qwen2, kv_cache_bytes=20 * BYTES_PER_TOKEN) as engine:
        assert isinstance(refused(engine, request_of(qwen2, 0, text_prompt(1, 20))), ContextOverflow)
        prompt = text_prompt(1, 8)
        check_equal(qwen2, [prompt], run(engine, qwen2, [prompt]))


def test_the_context_ends_a_generation_that_asks_for_no_length(qwen2: Family) -> None:
    sampling = SamplingParams(temperature=0.0, ignore_eos=True)
    with running(qwen2, max_model_len=30) as engine:
        [listener] = run(engine, qwen2, [text_prompt(1, 20)], sampling)
    assert (len(listener.tokens), listener.events[-1].finish_reason) == (10, FinishReason.LENGTH)


def test_features_must_fit_the_model_and_the_grid(seeing: Family) -> None:
    ids = (5, VISION_START, *[IMAGE] * 4, VISION_END, 6)
    with running(seeing) as engine:
        wide = ImageSpan(2, np.zeros((4, seeing.feature_size + 1), np.float32), (1, 4, 4), b"w")
        assert refused(engine, GenerationRequest(0, ids, GREEDY, (wide,))).field == "image_embeds"
        if not seeing.has_grids:
            return
        listener = Listener()
        other_grid = ImageSpan(2, np.zeros((4, seeing.feature_size), np.float32), (1, 8, 4), b"g")
        engine.submit(GenerationRequest(1, ids, GREEDY, (other_grid,)), listener)
        error = listener.wait().events[-1].error
        assert isinstance(error, InvalidInput) and error.field == "image_grid"


def test_a_request_that_fails_fails_alone(seeing: Family) -> None:
    ids = (5, VISION_START, *[IMAGE] * 4, VISION_END, 6)
    broken = ImageSpan(2, np.full((4, seeing.feature_size), np.nan, np.float32), (1, 4, 4), b"nan")
    bad, good = Listener(), Listener()
    prompt = text_prompt(1, 30)
    with running(seeing) as engine:
        engine.submit(request_of(seeing, 0, prompt), good)
        engine.submit(GenerationRequest(1, ids, dataclasses.replace(GREEDY, temperature=1.0), (broken,)), bad)
        assert isinstance(bad.wait().events[-1].error, BackendError)
        check_equal(seeing, [prompt], [good.wait()])


def test_a_failed_step_ends_its_requests_and_is_not_remembered(seeing: Family) -> None:
    prompt = picture_prompt(text_prompt(1, 6), picture(1), text_prompt(2, 3))
    [span] = seeing.spans(prompt)
    unreadable = dataclasses.replace(span, features=np.full((4, seeing.feature_size), "x", np.object_))
    bad = Listener()
    with running(seeing) as engine:
        engine.submit(GenerationRequest(0, prompt.ids, GREEDY, (unreadable,)), bad)
        assert isinstance(bad.wait().events[-1].error, InternalFault)
        [good] = run(engine, seeing, [prompt])
    check_equal(seeing, [prompt], [good])
    assert good.num_cached == 0
    assert len(bad.events) == 1


def test_the_queue_is_bounded(qwen2: Family) -> None:
    endless = SamplingParams(temperature=0.0, ignore_eos=True)
    with running(qwen2, max_num_seqs=1, max_waiting=1) as engine:
        first, second, third = Listener(), Listener(), Listener()
        engine.submit(request_of(qwen2, 0, text_prompt(1, 3), endless), first)
        assert first.started.wait(30)
        engine.submit(request_of(qwen2, 1, text_prompt(2, 3)), second)
        engine.submit(request_of(qwen2, 2, text_prompt(3, 3)), third)
        assert isinstance(third.wait().events[-1].error, QueueFull)
        engine.cancel(0)
        check_equal(qwen2, [text_prompt(2, 3)], [second.wait()])


def test_cancel_frees_the_slot_of_a_running_and_of_a_waiting_request(qwen2: Family) -> None:
    endless = SamplingParams(temperature=0.0, ignore_eos=True)
    with running(qwen2, max_num_seqs=1) as engine:
        listeners = [Listener(), Listener()]
        for number, listener in enumerate(listeners):
            engine.submit(request_of(qwen2, number, text_prompt(1, 3), endless), listener)
        assert listeners[0].started.wait(30)
        for number in (1, 0, 0, 77):
            engine.cancel(number)
        assert [each.wait().events[-1].finish_reason for each in listeners] == [FinishReason.ABORT] * 2
        assert idle(engine) == "<Scheduler 0 waiting, 0 running, <SlotPool 0/1 slots in use"
        assert len(listeners[0].tokens) < MAX_LEN - 3
        check_equal(qwen2, [text_prompt(4, 9)], run(engine, qwen2, [text_prompt(4, 9)]))


def test_close_ends_everything_and_then_nothing_is_taken(qwen2: Family) -> None:
    endless = SamplingParams(temperature=0.0, ignore_eos=True)
    with running(qwen2, max_num_seqs=2) as engine:
        listeners = [Listener() for _ in range(5)]
        for number, listener in enumerate(listeners):
            engine.submit(request_of(qwen2, number, text_prompt(number, 3), endless), listener)
        engine.close()
        reasons = [listener.wait().events[-1].finish_reason for listener in listeners]
        assert set(reasons) <= {FinishReason.ABORT, FinishReason.LENGTH}
        with pytest.raises(DependencyDown, match="closed"):
            engine.submit(request_of(qwen2, 9, text_prompt(1, 3)), Listener())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_dies_leaves_nobody_waiting(qwen2: Family) -> None:
    endless = SamplingParams(temperature=0.0, ignore_eos=True)

    def explode(event: TokenEvent) -> None:
        raise RuntimeError("emit must not raise")

    with running(qwen2) as engine:
        other = Listener()
        engine.submit(request_of(qwen2, 0, text_prompt(1, 3), endless), other)
        assert other.started.wait(30)
        engine.submit(request_of(qwen2, 1, text_prompt(2, 3)), explode)
        assert other.wait().events[-1].finish_reason is FinishReason.ABORT
        engine.close()
        with pytest.raises(DependencyDown):
            engine.submit(request_of(qwen2, 2, text_prompt(1, 3)), Listener())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crowd_with_aborts_and_priorities_in_a_small_cache(qwen2: Family, seed: int) -> None:
    chance = random.Random(seed)
    prompts = [Prompt((*text_prompt(each % 3, 10).ids, *text_prompt(each, 1 + each * 2).ids)) for each in range(10)]
    chosen = [chance.choice(prompts) for _ in range(80)]
    listeners = [Listener() for _ in chosen]
    options = {"kv_cache_bytes": 90 * BYTES_PER_TOKEN, "max_num_seqs": 6, "max_num_batched_tokens": 12}
    with running(qwen2, **options) as engine:
        for number, (prompt, listener) in enumerate(zip(chosen, listeners, strict=True)):
            sampling = dataclasses.replace(GREEDY, priority=chance.randint(0, 2))
            engine.submit(request_of(qwen2, number, prompt, sampling), listener)
            if chance.random() < 0.3:
                engine.cancel(chance.randint(0, number))
        for listener in listeners:
            listener.wait()
        assert idle(engine) == "<Scheduler 0 waiting, 0 running, <SlotPool 0/6 slots in use"
    for prompt, listener in zip(chosen, listeners, strict=True):
        aborted = listener.events[-1].finish_reason is FinishReason.ABORT
        assert listener.tokens == qwen2.generate(prompt, NUM_TOKENS)[: len(listener.tokens) if aborted else None]
    assert sum(listener.events[-1].finish_reason is not FinishReason.ABORT for listener in listeners) > 40


# Sampling, stopping, options


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(qwen2: Family) -> None:
    prompts = mixed_prompts(qwen2, 6)
    sampling = SamplingParams(temperature=1.2, top_p=0.9, seed=7, max_tokens=NUM_TOKENS, ignore_eos=True)
    with running(qwen2, enable_prefix_caching=False) as engine:
        alone = [run(engine, qwen2, [prompt], sampling)[0].tokens for prompt in prompts]
        together = [listener.tokens for listener in run(engine, qwen2, prompts, sampling)]
    assert alone == together
    assert alone[0] != qwen2.generate(prompts[0], NUM_TOKENS)


def test_stop_token_ids_and_logprobs(qwen2: Family) -> None:
    prompt = text_prompt(1, 20)
    expected = qwen2.generate(prompt, NUM_TOKENS)
    stop = next(token for token in expected[2:] if token != EOS)
    sampling = dataclasses.replace(GREEDY, stop_token_ids=frozenset({stop}), logprobs=True, top_logprobs=2)
    with running(qwen2) as engine:
        [listener] = run(engine, qwen2, [prompt], sampling)
    last = listener.events[-1]
    assert listener.tokens == expected[: expected.index(stop) + 1]
    assert (last.finish_reason, last.stop_token_id) == (FinishReason.STOP, stop)
    logits = qwen2.model(torch.tensor([prompt.ids])).logits[0, -1].log_softmax(-1)
    found = listener.events[0].logprob
    assert found is not None
    assert found.logprob == pytest.approx(float(logits[expected[0]].detach()), abs=1e-4)
    assert [token for token, _ in found.top] == logits.topk(2).indices.tolist()


def test_bfloat16_is_loaded_as_such(seeing: Family) -> None:
    prompts = mixed_prompts(seeing, 4)
    with running(seeing, dtype="bfloat16", max_num_batched_tokens=8) as engine:
        listeners = run(engine, seeing, prompts)
        assert repr(engine).startswith(f"<TorchEngine <{seeing.name} torch.bfloat16 on ")
    assert all(listener.events[-1].error is None for listener in listeners)
    assert all(0 <= token < 96 for listener in listeners for token in listener.tokens)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_model_len": MAX_LEN + 1}, f"'max_model_len' is {MAX_LEN + 1}; the checkpoint's context holds {MAX_LEN}"),
        ({"kv_cache_bytes": 8}, f"'kv_cache_bytes' is 8; one token needs {BYTES_PER_TOKEN} bytes"),
        ({"tensor_parallel_size": 2}, "'tensor_parallel_size' is 2"),
    ],
)
def test_options_that_the_checkpoint_cannot_meet_fail_the_load(
    qwen2: Family, options: dict[str, int], expected: str
) -> None:
    with pytest.raises(Exception, match=expected):
        create_engine("torch", EngineOptions(str(qwen2.folder), **options))  # type: ignore[arg-type]
