"""Image features that are fetched only where the KV cache covers no image: a real engine, client and server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from python_backends.engine import EngineOptions
from python_backends.errors import DeadlineExceeded, DependencyDown
from python_backends.llm.vision_client import VisionClient
from python_backends.torch_engine.engine import TorchEngine
from python_backends.types import FinishReason, GenerationRequest, ImageSpan, SamplingParams
from tests.backends.families import VISION_START, Family, Prompt, picture, picture_prompt, text_prompt
from tests.backends.test_torch_engine import GREEDY, NUM_TOKENS, Listener
from tests.backends.vision_server import Encoded, Vision, served


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family("qwen2_5_vl", tmp_path_factory.mktemp("qwen2_5_vl"))


@dataclass
class Setting:
    """An engine whose images come from a server; the image of a picture is its seed in text."""

    family: Family
    vision: Vision
    client: VisionClient
    engine: TorchEngine
    numbers: Iterator[int] = field(default_factory=count)

    def ask(
        self,
        prompt: Prompt,
        images: list[bytes],
        sampling: SamplingParams = GREEDY,
        watch: Callable[[], None] | None = None,
        **more: Any,
    ) -> Listener:
        starts = [place + 1 for place, token in enumerate(prompt.ids) if token == VISION_START]
        found = self.client.features(images)
        pairs = zip(starts, found, strict=True)
        spans = tuple(ImageSpan(start, each.features, each.grid, each.digest) for start, each in pairs)
        listener = Listener(watch)
        request = GenerationRequest(next(self.numbers), prompt.ids, sampling, spans, **more)
        self.engine.submit(request, listener)
        return listener

    def check(self, prompt: Prompt, listener: Listener) -> None:
        assert listener.wait().tokens == self.family.generate(prompt, NUM_TOKENS)


@contextmanager
def setting(family: Family, cache_bytes: int = 0, **options: Any) -> Iterator[Setting]:
    """By default no features are kept at all."""

    def encode(image: bytes) -> Encoded:
        drawn = picture(int(image))
        return np.array(family._features(drawn)), drawn.grid

    vision = Vision(encode)
    given = {"dtype": "float32", "kv_cache_bytes": 1 << 22, **options}
    with served(vision, cache_bytes) as client:
        engine = TorchEngine(EngineOptions(str(family.folder), **given))
        try:
            yield Setting(family, vision, client, engine)
        finally:
            engine.close()


def chat(*seeds: int, question: int = 9) -> tuple[Prompt, list[bytes]]:
    """A prompt with these pictures, and their images."""
    parts = [text_prompt(1, 5)]
    for seed in seeds:
        parts += [picture(seed), text_prompt(seed + 20, 3)]  # type: ignore[list-item]
    return picture_prompt(*parts, text_prompt(question, 4)), [str(seed).encode() for seed in seeds]


def test_an_image_that_the_kv_cache_covers_is_not_encoded_again(family: Family) -> None:
    with setting(family) as here:
        for question in (9, 10, 9):
            prompt, images = chat(1, 2, question=question)
            here.check(prompt, here.ask(prompt, images))
        assert sorted(here.vision.asked) == [b"1", b"2"]
        assert (here.client.stats.num_calls, here.client.stats.num_bytes) == (2, 0)
        prompt, images = chat(1, 3)
        here.check(prompt, here.ask(prompt, images))
        here.check(prompt, here.ask(prompt, images))
        assert here.vision.asked == [b"1", b"2", b"3"], "the new image only"


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_the_same_tokens_with_every_cache_on_or_off(family: Family, caching: bool, cache_bytes: int) -> None:
    with setting(family, cache_bytes, enable_prefix_caching=caching) as here:
        for seeds in ((1,), (1, 2), (2,), (1, 2), (1,)):
            prompt, images = chat(*seeds)
            here.check(prompt, here.ask(prompt, images))
        assert here.client.stats.num_calls == (2 if cache_bytes or caching else 7) + (caching and not cache_bytes)


def test_an_image_that_is_covered_in_part_is_fetched(family: Family) -> None:
    prompt, images = chat(1)
    # Ends with the image: its last token is computed anew, for the logits.
    end = prompt.ids.index(VISION_START) + 1 + picture(1).num_tokens
    cut = Prompt(prompt.ids[:end], prompt.pictures)
    answers = []
    for caching in (False, True):
        with setting(family, enable_prefix_caching=caching) as here:
            here.check(prompt, here.ask(prompt, images))
            answers.append(here.ask(cut, images).wait())
            assert here.vision.asked == [b"1", b"1"]
    assert answers[0].tokens == answers[1].tokens
    assert [answer.num_cached for answer in answers] == [0, end - 1]


def test_what_was_covered_when_it_came_may_be_gone_when_it_starts(family: Family) -> None:
    prompt, images = chat(1)
    with setting(family, kv_cache_bytes=60 * family.bytes_per_token, max_num_seqs=1) as here:
        here.check(prompt, here.ask(prompt, images))
        long = text_prompt(3, 30)
        blocker = here.ask(long, [], replace(GREEDY, ignore_eos=True, max_tokens=20))
        waiting = here.ask(prompt, images)
        here.check(prompt, waiting)
        blocker.wait()
        assert here.vision.asked == [b"1", b"1"]
        assert waiting.num_cached == 0


def test_after_preemption_features_are_fetched_when_they_are_needed(family: Family) -> None:
    prompt, images = chat(1)
    num_preempted = [0]
    # Needs the whole cache in the end, so that nothing is left of the image.
    greedy = replace(GREEDY, ignore_eos=True, max_tokens=30)
    long = GenerationRequest(99, text_prompt(3, 18).ids, greedy)
    with setting(family, kv_cache_bytes=48 * family.bytes_per_token) as here:
        here.check(prompt, here.ask(prompt, images))

        def watch() -> None:
            num_preempted.append(here.engine.scheduler.num_preemptions)
            if len(num_preempted) == 2:
                here.engine.submit(long, Listener())

        covered = here.ask(prompt, images, replace(GREEDY, priority=5), watch)
        here.check(prompt, covered)
        assert num_preempted[-1] and covered.num_cached == len(prompt.ids) - 1
        assert here.vision.asked == [b"1", b"1"]


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_the_same_words_with_another_image_never_get_its_answer(family: Family, cache_bytes: int) -> None:
    chance = random.Random(3)
    asked = [chat(chance.randrange(1, 5), question=9) for _ in range(40)]
    wanted = {seed: family.generate(chat(seed)[0], NUM_TOKENS) for seed in range(1, 5)}
    assert len({tuple(tokens) for tokens in wanted.values()}) == 4
    with setting(family, cache_bytes, kv_cache_bytes=150 * family.bytes_per_token, max_num_batched_tokens=24) as here:
        found: dict[int, Listener] = {}

        def some(numbers: range) -> None:
            for number in numbers:
                found[number] = here.ask(*asked[number])
                if number % 3 == 0:
                    found[number].wait()

        threads = [threading.Thread(target=some, args=(range(start, 40, 4),)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for number, (_, [image]) in enumerate(asked):
            assert found[number].wait().tokens == wanted[int(image)]


def test_whoever_awaits_features_holds_nobody_up(family: Family) -> None:
    with setting(family, enable_prefix_caching=False) as here:
        prompt, images = chat(1)
        here.check(prompt, here.ask(prompt, images))
        here.vision.all_here = threading.Barrier(2)
        slow = here.ask(prompt, images)
        other = text_prompt(5, 6)
        here.check(other, here.ask(other, []))
        assert not slow.events and here.engine.stats.num_waiting == 1
        here.vision.all_here.wait(5)
        here.check(prompt, slow)


def test_a_request_that_awaits_features_can_end(family: Family) -> None:
    with setting(family, enable_prefix_caching=False) as here:
        prompt, images = chat(1)
        here.check(prompt, here.ask(prompt, images))
        here.vision.all_here = threading.Barrier(2)
        cancelled = here.ask(prompt, images)
        late = here.ask(prompt, images, deadline=cancelled.started.wait(0.05) or 0.0)
        here.engine.cancel(1)
        assert cancelled.wait().events[-1].finish_reason is FinishReason.ABORT
        assert isinstance(late.wait().events[-1].error, DeadlineExceeded)
        here.vision.all_here.wait(5)


def test_an_encoder_that_fails_ends_only_those_who_need_it(family: Family) -> None:
    with setting(family, enable_prefix_caching=False) as here:
        prompt, images = chat(1)
        here.check(prompt, here.ask(prompt, images))
        here.vision.make = lambda image: (np.zeros((0, 0)), (0, 0, 0))
        error = here.ask(prompt, images).wait().events[-1].error
        assert isinstance(error, DependencyDown) and error.field == "image"
        other = text_prompt(5, 6)
        here.check(other, here.ask(other, []))
        assert repr(here.engine.scheduler).startswith("<Scheduler 0 waiting, 0 running")


def test_features_of_another_width_end_their_request(family: Family) -> None:
    with setting(family, enable_prefix_caching=False) as here:
        prompt, images = chat(1)
        here.check(prompt, here.ask(prompt, images))
        here.vision.make = lambda image: (np.zeros((4, 7), np.float32), (1, 4, 4))
        error = here.ask(prompt, images).wait().events[-1].error
        assert "must have the shape [n, 32], got [4, 7]" in str(error)


def test_forks_need_no_features_of_their_own(family: Family) -> None:
    with setting(family) as here:
        prompt, images = chat(1)
        here.check(prompt, here.ask(prompt, images))
        several = here.ask(prompt, images, replace(GREEDY, n=3))
        while sum(event.finish_reason is not None for event in several.events) < 3:
            assert several.started.wait(30)
        for index in range(3):
            said = [event.token_id for event in several.events if event.index == index]
            assert said == family.generate(prompt, NUM_TOKENS)
        assert here.vision.asked == [b"1"]
