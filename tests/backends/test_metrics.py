"""Counting what the replies see, on a board that is a dictionary and a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from python_backends import metrics
from python_backends.engine import EngineStats
from python_backends.metrics import Metric, RequestMetrics
from python_backends.types import FinishReason, TokenEvent

ROOT = Path(__file__).resolve().parent.parent.parent


class DictBoard:
    """Numbers by name, or by name and labels."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.times: dict[str, list[float]] = {}
        self.num_calls = 0

    def declare(self, metric: Metric) -> None:
        self.values.setdefault(metric.name, 0.0)

    def add(self, metric: Metric, labels: Mapping[str, str], value: float) -> None:
        key = " ".join((metric.name, *labels.values()))
        self.values[key] = self.values.get(key, 0.0) + value
        self.num_calls += 1

    def set(self, metric: Metric, value: float) -> None:
        self.values[metric.name] = value
        self.num_calls += 1

    def observe(self, metric: Metric, value: float) -> None:
        self.times.setdefault(metric.name, []).append(value)
        self.num_calls += 1

    def __getitem__(self, name: str) -> float:
        return self.values[f"trimodal_{name}"]


class Scene:
    """A request's life, told by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stats = EngineStats()
        self.board = DictBoard()
        self.metrics = RequestMetrics(self.board, lambda: self.stats, lambda: self.now)

    def token(self, number: int, after: float = 0.0, index: int = 0, **more: float) -> None:
        self.now += after
        self.metrics.see(number, TokenEvent(7, index=index, **more))  # type: ignore[arg-type]

    def flush(self, after: float = 1.0) -> None:
        self.now += after
        self.metrics.flush()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_request_fills_every_histogram_and_counter(scene: Scene) -> None:
    scene.metrics.begin(1, num_prompt_tokens=30, arrived=99.0)
    scene.token(1, num_cached_tokens=20, queued_s=0.25)
    for _ in range(3):
        scene.token(1, after=0.5)
    scene.metrics.end(1, "stop")
    scene.flush()
    assert scene.board.times == {
        "trimodal_queue_time_seconds": [0.25],
        "trimodal_time_to_first_token_seconds": [1.0],
        "trimodal_inter_token_time_seconds": [0.5] * 3,
        "trimodal_request_time_seconds": [2.5],
    }
    counted = ("prompt_tokens", "generated_tokens", "prefix_cache_queried_tokens", "prefix_cache_hit_tokens")
    assert [scene.board[name] for name in counted] == [30, 4, 30, 20]
    assert scene.board["requests stop"] == 1
    assert not scene.metrics.is_busy


def test_aborts_are_counted_by_reason(scene: Scene) -> None:
    for number, reason in enumerate(("client_gone", "stop", "stop")):
        scene.metrics.begin(number, 3, 100.0)
        scene.metrics.end(number, "abort", reason)  # type: ignore[arg-type]
    scene.metrics.end(77, "abort", "stop")
    scene.flush()
    assert (scene.board["requests abort"], scene.board["aborts stop"], scene.board["aborts client_gone"]) == (3, 2, 1)


def test_gauges_follow_the_engine_and_preemptions_only_grow(scene: Scene) -> None:
    scene.stats = EngineStats(2, 3, 40, 60, 80, 5)
    scene.flush()
    shown = ("running_requests", "waiting_requests", "cache_used_tokens", "cache_tokens", "cache_usage_ratio")
    assert [scene.board[name] for name in shown] == [2, 3, 40, 60, 0.5]
    assert scene.metrics.is_busy
    scene.stats = EngineStats(0, 0, 0, 60, 80, 6)
    scene.flush()
    assert [scene.board[name] for name in shown] == [0, 0, 0, 60, 0.0]
    assert scene.board["preemptions"] == 6


def test_the_board_is_told_at_most_ten_times_a_second_and_only_what_changed(scene: Scene) -> None:
    scene.flush()
    before = scene.board.num_calls
    scene.metrics.begin(1, 3, scene.now)
    for _ in range(50):
        scene.token(1, after=0.001)
        scene.metrics.flush()
    assert scene.board.num_calls == before
    scene.flush()
    scene.flush()
    told = scene.board.num_calls - before
    assert scene.board["generated_tokens"] == 50
    assert told <= 40, "a sample of the gaps, and each counter once"


def test_sequences_of_one_request_have_gaps_of_their_own(scene: Scene) -> None:
    scene.metrics.begin(1, 3, scene.now)
    scene.token(1, index=0)
    scene.token(1, after=0.25, index=1)
    scene.token(1, after=0.25, index=0)
    scene.metrics.see(1, TokenEvent(finish_reason=FinishReason.ABORT))
    scene.flush()
    assert scene.board.times["trimodal_inter_token_time_seconds"] == [0.5]


def test_the_document_names_every_metric() -> None:
    rows = (ROOT / "docs/metrics.md").read_text().splitlines()
    families = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert len(families) >= 14
    for family in families:
        assert family.name.startswith("trimodal_")
        assert any(f"`{family.name}`" in row and family.kind in row for row in rows), family.name
