"""What the outbox counts, and what it says of a request before the engine hears of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from python_backends.errors import BackendError, DeadlineExceeded, InternalFault
from python_backends.llm.replies import Outbox, Reply, ReplyStyle, Timings
from python_backends.metrics import RequestMetrics
from python_backends.types import FinishReason, GenerationRequest, SamplingParams, TokenEvent
from tests.backends.test_metrics import DictBoard
from tests.backends.test_replies import TOKENIZER, RecordingChannel, wait

A = TOKENIZER.token_to_id("a")


class Desk:
    """An outbox with a board; the engine is the test itself."""

    def __init__(self) -> None:
        self.board = DictBoard()
        self.replies: dict[int, Reply] = {}
        self.stopped_when_cancelled: list[bool] = []
        self.outbox = Outbox(self._cancel, RequestMetrics(self.board))

    def _cancel(self, request_id: int, index: int | None) -> None:
        self.stopped_when_cancelled.append(self.replies[request_id].stopped)
        self.outbox.put(request_id, TokenEvent(finish_reason=FinishReason.ABORT))

    def open(self, number: int) -> RecordingChannel:
        channel = RecordingChannel()
        request = GenerationRequest(number, (1, 2, 3), SamplingParams())
        self.replies[number] = Reply(request, f"r{number}", channel, TOKENIZER, ReplyStyle(), Timings())
        self.outbox.register(self.replies[number])
        return channel

    def close(self) -> dict[str, float]:
        """The counters of requests and aborts when all is told."""
        self.outbox.close()
        return {name: value for name, value in self.board.values.items() if "requests " in name or "aborts " in name}


def leave(desk: Desk, channel: RecordingChannel) -> None:
    channel.cancelled = True


def stop(desk: Desk, channel: RecordingChannel) -> None:
    desk.outbox.stop("r0")


def fail_with(error: BackendError) -> Callable[[Desk, RecordingChannel], None]:
    return lambda desk, channel: desk.outbox.put(0, TokenEvent(error=error))


@pytest.mark.parametrize(
    ("end", "finish_reason", "abort"),
    [
        (leave, "abort", "client_gone"),
        (stop, "abort", "stop"),
        (fail_with(DeadlineExceeded("late")), "error", "deadline"),
        (fail_with(InternalFault("broken")), "error", "error"),
    ],
)
def test_early_ends_are_counted_by_reason(
    end: Callable[[Desk, RecordingChannel], None], finish_reason: str, abort: str
) -> None:
    desk = Desk()
    channel = desk.open(0)
    desk.outbox.put(0, TokenEvent(A))
    end(desk, channel)
    wait(channel)
    assert desk.close() == {f"trimodal_requests {finish_reason}": 1, f"trimodal_aborts {abort}": 1}
    assert desk.board.values["trimodal_generated_tokens"] == 1


def test_what_is_open_at_the_unload_is_counted_as_such() -> None:
    desk = Desk()
    desk.open(0)
    assert desk.close() == {"trimodal_requests error": 1, "trimodal_aborts unload": 1}


@pytest.mark.parametrize("end", [leave, stop])
def test_a_reply_knows_of_its_end_before_the_engine_does(end: Callable[[Desk, RecordingChannel], None]) -> None:
    # Whoever hands the request over afterwards looks there, for the engine forgets a cancel of an id it does not know.
    desk = Desk()
    channel = desk.open(0)
    end(desk, channel)
    wait(channel)
    desk.close()
    assert desk.stopped_when_cancelled == [True]
