"""The simulation of benchmarks/capacity.py against what can be worked out, and against measured points."""

from __future__ import annotations

import pytest

from benchmarks.capacity import Server, replicas_for, simulate


def test_a_quiet_server_answers_in_the_time_of_its_steps() -> None:
    found = simulate(Server(step_s=0.01, per_sequence_s=0.001), 1, per_second=0.01, steps=1, requests=500)
    assert found.queue_p95_s == 0
    assert found.total_p50_s == pytest.approx(0.011, rel=0.5)


def test_one_slot_is_the_textbooks_queue() -> None:
    """M/M/1: the mean time in the system is 1 / (service rate - arrival rate); its median is ln 2 of that."""
    found = simulate(Server(step_s=0.01, slots=1), 1, per_second=0.5, steps=100, requests=20000)
    assert found.total_p50_s == pytest.approx(0.693 / (1 - 0.5), rel=0.1)


def test_more_load_needs_more_replicas_and_never_fewer_than_the_throughput_allows() -> None:
    server = Server(step_s=0.01, per_sequence_s=0.0005, slots=16)
    needed = [replicas_for(server, rate, steps=50, queue_s=0.2) for rate in (5, 20, 80)]
    assert needed == sorted(needed) and needed[0] >= 1
    assert needed[2] >= 80 / server.most_per_second(50)


def test_it_meets_a_measured_point() -> None:
    """docs/scaling.md: steps of 5.15 ms alone and 9.88 ms by four, measured; between them 249 tokens/s by two."""
    per_sequence = (9.88 - 5.15) / 3
    server = Server(step_s=(5.15 - per_sequence) / 1000, per_sequence_s=per_sequence / 1000, slots=2)
    predicted = 22.55 * server.most_per_second(22.55)
    assert predicted == pytest.approx(249, rel=0.25)
