"""The way back to the client, with a channel that records and an engine that is the test itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from python_backends.errors import InternalFault, QueueFull
from python_backends.llm.replies import Outbox, Reply, ReplyStyle, Timings
from python_backends.types import FinishReason, GenerationRequest, ImageSpan, SamplingParams, TokenEvent, TokenLogprob
from tests.backends.tiny import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
STOP, LENGTH, ABORT = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT


class RecordingChannel:
    """What a client would have seen."""

    def __init__(self, broken: bool = False) -> None:
        self.responses: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.cancelled = False
        self.ended = threading.Event()
        self._broken = broken

    def send(self, outputs: Mapping[str, np.ndarray[Any, Any]], final: bool = False) -> None:
        assert not self.ended.is_set(), "a response after the last one"
        if self._broken:
            raise RuntimeError("the pipe is broken")
        self.responses.append({name: array[0] for name, array in outputs.items()})
        if final:
            self.ended.set()

    def fail(self, error: BaseException) -> None:
        assert not self.ended.is_set(), "an error after the last response"
        self.error = error
        self.ended.set()

    def close(self) -> None:
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.cancelled

    @property
    def texts(self) -> list[str]:
        return [response["text_output"].decode() for response in self.responses]

    @property
    def last(self) -> dict[str, Any]:
        return self.responses[-1]


class Cancels:
    """Remembers what the engine was asked to cancel."""

    def __init__(self) -> None:
        self.ids: list[int | tuple[int, int]] = []
        self.happened = threading.Event()

    def __call__(self, request_id: int, index: int | None = None) -> None:
        self.ids.append(request_id if index is None else (request_id, index))
        self.happened.set()


@pytest.fixture
def cancels() -> Cancels:
    return Cancels()


@pytest.fixture
def outbox(cancels: Cancels) -> Iterator[Outbox]:
    outbox = Outbox(cancels)
    yield outbox
    outbox.close()


def open_reply(
    outbox: Outbox,
    number: int = 0,
    sampling: SamplingParams | None = None,
    style: ReplyStyle | None = None,
    channel: RecordingChannel | None = None,
    name: str = "",
) -> RecordingChannel:
    span = ImageSpan(1, np.zeros((2, 4), np.float32), (1, 2, 4), b"d")
    request = GenerationRequest(number, (1, 2, 3), sampling or SamplingParams(), (span,))
    channel = channel or RecordingChannel()
    outbox.register(Reply(request, name or f"r{number}", channel, TOKENIZER, style or ReplyStyle(), Timings()))
    return channel


def tell(outbox: Outbox, number: int, text: str, finish: FinishReason | None = None, **more: Any) -> None:
    """The engine says the text's tokens; the last one carries the finish reason."""
    ids = TOKENIZER.encode(text).ids
    for place, token_id in enumerate(ids):
        outbox.put(number, TokenEvent(token_id, finish_reason=finish if place == len(ids) - 1 else None, **more))


def letters(outbox: Outbox, number: int, text: str, finish: FinishReason | None = None) -> None:
    """The same, one token per letter."""
    for place, letter in enumerate(text):
        reason = finish if place == len(text) - 1 else None
        outbox.put(number, TokenEvent(TOKENIZER.token_to_id(letter), finish_reason=reason))


def wait(channel: RecordingChannel) -> RecordingChannel:
    assert channel.ended.wait(5), "the reply did not end"
    return channel


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def test_deltas_join_and_only_the_last_response_has_a_reason(outbox: Outbox, cancels: Cancels) -> None:
    channel = open_reply(outbox)
    letters(outbox, 0, "stopit", LENGTH)
    assert wait(channel).texts == list("stopit")
    assert [response["finish_reason"] for response in channel.responses[:-1]] == [b""] * (len(channel.responses) - 1)
    assert (channel.last["finish_reason"], channel.last["stop_reason"]) == (b"length", b"")
    assert cancels.ids == []


def test_the_checkpoints_own_end_is_no_stop_reason(outbox: Outbox) -> None:
    channel = open_reply(outbox)
    outbox.put(0, TokenEvent(5, finish_reason=STOP, stop_token_id=5))
    assert wait(channel).last["stop_reason"] == b""


def test_counts_are_those_of_the_contract(outbox: Outbox) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(stop_token_ids=frozenset({5})))
    for letter in "abc":
        outbox.put(0, TokenEvent(TOKENIZER.token_to_id(letter), num_cached_tokens=2))
    outbox.put(0, TokenEvent(5, finish_reason=STOP, stop_token_id=5, num_cached_tokens=2))
    wait(channel)
    assert sum(response["num_output_tokens"] for response in channel.responses) == 4
    for response in channel.responses:
        assert (response["num_input_tokens"], response["num_image_tokens"], response["num_cached_tokens"]) == (3, 2, 2)
        assert response["sequence_index"] == 0
    assert channel.last["stop_reason"] == b"5"
    assert "".join(channel.texts) == "abc"


def test_the_last_response_says_how_long_it_took(outbox: Outbox) -> None:
    channel = open_reply(outbox)
    letters(outbox, 0, "ab", LENGTH)
    timings = json.loads(wait(channel).last["timings"])
    assert set(timings) == {"prepare_s", "first_token_s", "total_s"}
    assert 0 <= timings["first_token_s"] <= timings["total_s"]
    assert [response["timings"] for response in channel.responses[:-1]] == [b""] * (len(channel.responses) - 1)


def test_a_stop_word_ends_the_reply_and_the_engine(outbox: Outbox, cancels: Cancels) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(stop=("cd",)))
    letters(outbox, 0, "abcdef")
    assert "".join(wait(channel).texts) == "ab"
    assert (channel.last["finish_reason"], channel.last["stop_reason"]) == (b"stop", b"cd")
    wait_until(lambda: set(cancels.ids) == {0})
    outbox.put(0, TokenEvent(finish_reason=ABORT))
    outbox.close()
    assert channel.last["finish_reason"] == b"stop"


def test_a_stop_word_in_the_engines_last_token_needs_no_cancel(outbox: Outbox, cancels: Cancels) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(stop=("c",)))
    letters(outbox, 0, "abc", LENGTH)
    wait(channel)
    outbox.close()
    assert (channel.last["finish_reason"], cancels.ids) == (b"stop", [])


def test_text_held_back_for_a_stop_word_is_sent_at_the_end(outbox: Outbox) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(stop=("bcx",)))
    letters(outbox, 0, "abc", LENGTH)
    assert wait(channel).texts[-1].endswith("bc")
    assert "".join(channel.texts) == "abc"


def test_no_empty_response_while_a_character_is_incomplete(outbox: Outbox) -> None:
    channel = open_reply(outbox)
    tell(outbox, 0, "🦜", LENGTH)
    assert wait(channel).texts == ["🦜"]
    assert channel.last["num_output_tokens"] == len(TOKENIZER.encode("🦜").ids)


def test_without_streaming_there_is_one_response(outbox: Outbox) -> None:
    channel = open_reply(outbox, style=ReplyStyle(stream=False, echo="say: "))
    letters(outbox, 0, "abcdef", LENGTH)
    assert wait(channel).texts == ["say: abcdef"]
    assert channel.last["num_output_tokens"] == 6


def test_the_first_token_goes_out_at_once_and_then_an_interval_at_a_time(outbox: Outbox) -> None:
    channel = open_reply(outbox, style=ReplyStyle(interval=3))
    letters(outbox, 0, "abcdefgh", LENGTH)
    assert wait(channel).texts == ["a", "bcd", "efg", "h"]


def test_logprobs_are_one_object_per_token(outbox: Outbox) -> None:
    first, second = TOKENIZER.encode("🦜").ids[:2]
    channel = open_reply(outbox, sampling=SamplingParams(logprobs=True, top_logprobs=1))
    letter = TOKENIZER.token_to_id("a")
    outbox.put(0, TokenEvent(letter, TokenLogprob(-0.5, ((first, -0.25),))))
    outbox.put(0, TokenEvent(second, TokenLogprob(-1.0, ()), finish_reason=LENGTH))
    wait(channel)
    tokens = [token for response in channel.responses for token in json.loads(response["logprobs"])]
    assert (tokens[0]["token"], tokens[0]["bytes"], tokens[0]["logprob"]) == ("a", [97], -0.5)
    assert tokens[0]["top_logprobs"][0]["bytes"] == [0xF0, 0x9F], "the bytes of a part of a character are its own"
    assert set(tokens[0]) == {"token", "bytes", "logprob", "top_logprobs"}
    assert tokens[1]["top_logprobs"] == []


def test_without_logprobs_the_tensor_is_empty(outbox: Outbox) -> None:
    channel = open_reply(outbox)
    letters(outbox, 0, "ab", LENGTH)
    assert [response["logprobs"] for response in wait(channel).responses] == [b""] * len(channel.responses)


def test_an_error_ends_only_its_own_reply(outbox: Outbox, cancels: Cancels) -> None:
    failing, fine = open_reply(outbox, 0), open_reply(outbox, 1)
    letters(outbox, 0, "a")
    outbox.put(0, TokenEvent(error=QueueFull("full")))
    letters(outbox, 1, "abc", LENGTH)
    assert isinstance(wait(failing).error, QueueFull)
    assert "".join(wait(fine).texts) == "abc"
    assert cancels.ids == []


def test_a_channel_that_breaks_ends_only_its_own_reply(outbox: Outbox, cancels: Cancels) -> None:
    broken, fine = open_reply(outbox, 0, channel=RecordingChannel(broken=True)), open_reply(outbox, 1)
    letters(outbox, 0, "a")
    letters(outbox, 1, "abc", LENGTH)
    assert isinstance(wait(broken).error, RuntimeError)
    assert "".join(wait(fine).texts) == "abc"
    assert set(cancels.ids) == {0}


class DeadChannel(RecordingChannel):
    """Nothing gets through to this client, not even an error."""

    def send(self, outputs: Mapping[str, np.ndarray[Any, Any]], final: bool = False) -> None:
        raise RuntimeError("the pipe is broken")

    def fail(self, error: BaseException) -> None:
        raise RuntimeError("the pipe is broken")

    def close(self) -> None:
        raise RuntimeError("the pipe is broken")


class MuteChannel(DeadChannel):
    """Cannot even be asked whether it is there."""

    def is_cancelled(self) -> bool:
        raise RuntimeError("the pipe is broken")


@pytest.mark.parametrize("kind", [DeadChannel, MuteChannel])
def test_a_dead_channel_does_not_stop_the_others(
    outbox: Outbox, cancels: Cancels, kind: type[RecordingChannel]
) -> None:
    open_reply(outbox, 0, channel=kind())
    fine = open_reply(outbox, 1)
    letters(outbox, 0, "a")
    assert cancels.happened.wait(5)
    letters(outbox, 1, "abc", LENGTH)
    assert "".join(wait(fine).texts) == "abc"
    assert set(cancels.ids) == {0}


def test_a_client_that_left_is_cancelled_and_closed(outbox: Outbox, cancels: Cancels) -> None:
    channel, stays = open_reply(outbox, 0), open_reply(outbox, 1)
    channel.cancelled = True
    assert wait(channel).responses == []
    assert cancels.ids == [0]
    letters(outbox, 1, "ab", LENGTH)
    assert "".join(wait(stays).texts) == "ab"


def test_an_engine_that_works_for_nobody_is_told_again(outbox: Outbox, cancels: Cancels) -> None:
    channel = open_reply(outbox, 0)
    channel.cancelled = True
    wait(channel)
    wait_until(lambda: cancels.ids == [0])
    letters(outbox, 0, "a")
    wait_until(lambda: cancels.ids == [0, 0])
    outbox.put(0, TokenEvent(finish_reason=ABORT))
    outbox.close()
    assert cancels.ids == [0, 0]


def say(outbox: Outbox, index: int, letter: str, finish: FinishReason | None = None, **more: Any) -> None:
    """One sequence of request 0 says a letter."""
    outbox.put(0, TokenEvent(TOKENIZER.token_to_id(letter), finish_reason=finish, index=index, **more))


def test_several_sequences_are_told_apart_and_end_by_themselves(outbox: Outbox, cancels: Cancels) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(n=3))
    for index, letter in enumerate("abc"):
        say(outbox, index, letter, num_cached_tokens=2)
    say(outbox, 1, "x", LENGTH)
    say(outbox, 0, "y", STOP)
    say(outbox, 2, "z", LENGTH)
    texts = ["", "", ""]
    for response in wait(channel).responses:
        texts[response["sequence_index"]] += response["text_output"].decode()
    assert texts == ["ay", "bx", "cz"]
    ends = [(each["sequence_index"], each["finish_reason"]) for each in channel.responses if each["finish_reason"]]
    assert ends == [(1, b"length"), (0, b"stop"), (2, b"length")]
    assert [bool(response["timings"]) for response in channel.responses] == [False] * 5 + [True]
    assert {response["num_input_tokens"] for response in channel.responses} == {3}
    assert cancels.ids == []


def test_without_streaming_each_sequence_has_one_response(outbox: Outbox) -> None:
    style = ReplyStyle(stream=False, echo="> ")
    channel = open_reply(outbox, sampling=SamplingParams(n=2, logprobs=True), style=style)
    for letter in "abc":
        for index in (0, 1):
            say(outbox, index, letter, logprob=TokenLogprob(-1.0 - index, ()))
    say(outbox, 1, "x", LENGTH)
    say(outbox, 0, "y", LENGTH)
    assert wait(channel).texts == ["> abcx", "> abcy"]
    assert [response["num_output_tokens"] for response in channel.responses] == [4, 4]
    assert [json.loads(each["logprobs"])[0]["logprob"] for each in channel.responses] == [-2.0, -1.0]


def test_a_stop_word_ends_its_sequence_alone(outbox: Outbox, cancels: Cancels) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(n=2, stop=("b",)))
    for letter in "ab":
        say(outbox, 1, letter)
    wait_until(lambda: cancels.ids == [(0, 1)])
    say(outbox, 0, "x")
    say(outbox, 1, "c")
    wait_until(lambda: cancels.ids == [(0, 1), (0, 1)])
    outbox.put(0, TokenEvent(finish_reason=ABORT, index=1))
    say(outbox, 0, "y", LENGTH)
    said = [(each["sequence_index"], each["text_output"]) for each in wait(channel).responses]
    assert said == [(1, b"a"), (1, b""), (0, b"x"), (0, b"y")]
    assert cancels.ids == [(0, 1), (0, 1)]


def test_an_error_ends_all_sequences_and_so_does_stop(outbox: Outbox, cancels: Cancels) -> None:
    failing, stopped = (
        open_reply(outbox, 0, SamplingParams(n=2)),
        open_reply(outbox, 1, SamplingParams(n=2), name="mine"),
    )
    say(outbox, 0, "a")
    outbox.put(0, TokenEvent(error=QueueFull("full"), index=1))
    assert isinstance(wait(failing).error, QueueFull)
    outbox.stop("mine")
    wait_until(lambda: cancels.ids == [1])
    for index in (0, 1):
        outbox.put(1, TokenEvent(finish_reason=ABORT, index=index))
    assert [each["finish_reason"] for each in wait(stopped).responses] == [b"abort", b"abort"]


def test_no_stop_word_before_min_tokens(outbox: Outbox) -> None:
    channel = open_reply(outbox, sampling=SamplingParams(stop=("b", "cd"), min_tokens=3))
    letters(outbox, 0, "abcdef")
    assert "".join(wait(channel).texts) == "ab"
    assert channel.last["stop_reason"] == b"cd", "it ends in the fourth token, and begins in the third"


def test_stop_by_name_cancels_all_of_that_name(outbox: Outbox, cancels: Cancels) -> None:
    channels = [open_reply(outbox, number, name=name) for number, name in enumerate(("mine", "other", "mine"))]
    outbox.stop("mine")
    wait_until(lambda: len(cancels.ids) == 2)
    letters(outbox, 0, "a")
    wait_until(lambda: cancels.ids == [0, 2, 0])
    for number in (0, 2):
        outbox.put(number, TokenEvent(finish_reason=ABORT))
        assert wait(channels[number]).last["finish_reason"] == b"abort"
    assert not channels[1].ended.is_set()


@pytest.mark.parametrize("name", ["", "unknown"])
def test_stop_of_nobody_stops_nobody(outbox: Outbox, cancels: Cancels, name: str) -> None:
    channel = open_reply(outbox)
    outbox.stop(name)
    letters(outbox, 0, "ab", LENGTH)
    assert "".join(wait(channel).texts) == "ab"
    assert cancels.ids == []


def test_closing_sends_what_is_queued_and_fails_the_rest(cancels: Cancels) -> None:
    outbox = Outbox(cancels)
    done, stays = open_reply(outbox, 0), open_reply(outbox, 1)
    letters(outbox, 0, "abc", LENGTH)
    outbox.close()
    assert "".join(done.texts) == "abc"
    assert stays.error is not None and not isinstance(stays.error, InternalFault)


def test_many_replies_keep_their_order(outbox: Outbox) -> None:
    texts = {number: f"the dog {number} stop" for number in range(20)}
    channels = {number: open_reply(outbox, number) for number in texts}
    events = {number: TOKENIZER.encode(text).ids for number, text in texts.items()}
    for place in range(max(map(len, events.values()))):
        for number, ids in events.items():
            if place < len(ids):
                outbox.put(number, TokenEvent(ids[place], finish_reason=LENGTH if place == len(ids) - 1 else None))
    assert {number: "".join(wait(channel).texts) for number, channel in channels.items()} == texts
