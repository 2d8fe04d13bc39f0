"""What a response leaves out when the client asks for compact ones, and how often clients are asked if they stay."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator

import pytest

from python_backends.llm.replies import Outbox, ReplyStyle
from python_backends.types import FinishReason, SamplingParams, TokenEvent, TokenLogprob
from tests.backends.test_replies import (
    TOKENIZER,
    Cancels,
    RecordingChannel,
    letters,
    open_reply,
    say,
    wait,
)

LENGTH = FinishReason.LENGTH
COMPACT = ReplyStyle(compact=True)
NEWS = {"text_output", "num_output_tokens"}
ALL = {
    *NEWS,
    "sequence_index",
    "finish_reason",
    "stop_reason",
    "num_input_tokens",
    "num_cached_tokens",
    "num_image_tokens",
    "logprobs",
    "timings",
}


@pytest.fixture
def cancels() -> Cancels:
    return Cancels()


@pytest.fixture
def outbox(cancels: Cancels) -> Iterator[Outbox]:
    outbox = Outbox(cancels)
    yield outbox
    outbox.close()


def test_between_the_first_and_the_last_there_is_only_what_is_new(outbox: Outbox) -> None:
    channel = open_reply(outbox, style=COMPACT)
    letters(outbox, 0, "abcd", LENGTH)
    first, *between, last = wait(channel).responses
    assert (first.keys(), last.keys()) == (ALL, ALL)
    assert [response.keys() for response in between] == [NEWS, NEWS]
    assert channel.texts == list("abcd")
    assert [response["num_output_tokens"] for response in channel.responses] == [1, 1, 1, 1]
    assert (first["num_input_tokens"], first["num_image_tokens"]) == (3, 2)
    assert (last["finish_reason"], bool(last["timings"])) == (b"length", True)


def test_unasked_every_response_has_everything(outbox: Outbox) -> None:
    channel = open_reply(outbox)
    letters(outbox, 0, "abcd", LENGTH)
    assert [response.keys() for response in wait(channel).responses] == [ALL] * 4


def test_each_sequence_has_a_whole_first_response_and_a_whole_last_one(outbox: Outbox) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(n=2), style=COMPACT)
    for letter in "abc":
        say(outbox, 0, letter)
    for letter in "xyz":
        say(outbox, 1, letter)
    say(outbox, 0, "d", LENGTH)
    say(outbox, 1, "s", LENGTH)
    keys = [response.keys() for response in wait(channel).responses]
    assert keys == [ALL, NEWS, NEWS, ALL, NEWS | {"sequence_index"}, NEWS | {"sequence_index"}, ALL, ALL]
    texts = ["", ""]
    for response in channel.responses:
        texts[response.get("sequence_index", 0)] += response["text_output"].decode()
    assert texts == ["abcd", "xyzs"]


def test_logprobs_come_with_their_tokens(outbox: Outbox) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(logprobs=True), style=COMPACT)
    for letter, finish in zip("abc", (None, None, LENGTH), strict=True):
        say(outbox, 0, letter, finish, logprob=TokenLogprob(-1.0, ()))
    assert wait(channel).responses[1].keys() == NEWS | {"logprobs"}
    assert [json.loads(response["logprobs"])[0]["token"] for response in channel.responses] == list("abc")


def test_an_answer_in_one_response_is_whole(outbox: Outbox) -> None:
    channel = open_reply(outbox, style=ReplyStyle(stream=False, compact=True))
    letters(outbox, 0, "abc", LENGTH)
    assert [response.keys() for response in wait(channel).responses] == [ALL]


class CountingChannel(RecordingChannel):
    """Notes when it was asked whether its client is there."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_at: list[float] = []

    def is_cancelled(self) -> bool:
        self.asked_at.append(time.monotonic())
        return self.cancelled


def speak_for(outbox: Outbox, seconds: float) -> None:
    """The engine goes on talking, with an event every 2 ms or so."""
    ends = time.monotonic() + seconds
    for place in itertools.count():
        if time.monotonic() > ends:
            return
        outbox.put(place % 4, TokenEvent(TOKENIZER.token_to_id("a")))
        time.sleep(0.002)


def test_many_clients_are_asked_in_turn_and_no_oftener_than_a_hundred_times_a_second(outbox: Outbox) -> None:
    channels = [CountingChannel() for _ in range(40)]
    began = time.monotonic()
    for number, channel in enumerate(channels):
        open_reply(outbox, number, channel=channel)
    speak_for(outbox, 1.0)
    counts = [len(channel.asked_at) for channel in channels]
    took = time.monotonic() - began
    assert min(counts) >= 1, "nobody is forgotten"
    assert max(counts) - min(counts) <= 1, "nobody is asked again before all others were"
    assert sum(counts) <= 100 * took + 5


def test_a_client_among_few_is_missed_soon(outbox: Outbox, cancels: Cancels) -> None:
    channels = [CountingChannel() for _ in range(5)]
    for number, channel in enumerate(channels):
        open_reply(outbox, number, channel=channel)
    speak_for(outbox, 0.5)
    gaps = sorted(later - earlier for one in channels for earlier, later in itertools.pairwise(one.asked_at))
    assert gaps[0] >= 0.04 and gaps[len(gaps) // 2] < 0.1
    channels[3].cancelled = True
    assert wait(channels[3]) and cancels.ids == [3]
