"""How many replicas a load needs: a simulation of servers that batch, from times that were measured. docs/scaling.md.

    python benchmarks/capacity.py --requests-per-second 40 --steps 128 --step-s 0.012 --per-sequence-s 0.0004

A replica works in steps; one with b sequences takes `step_s + b * per_sequence_s`, and gives each of them one token. A
request takes the least busy replica, waits while that holds `slots` others, and leaves after as many steps as it has
tokens. An encoder is the same with one step for an image, a gateway with one for a request.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    """What was measured of one replica; `prompt_s` is what a request costs before its first step."""

    step_s: float
    per_sequence_s: float = 0.0
    prompt_s: float = 0.0
    slots: int = 64

    def step(self, sequences: int) -> float:
        return self.step_s + sequences * self.per_sequence_s

    def most_per_second(self, steps: float) -> float:
        """Requests a second that one replica can finish at all, with all its slots busy."""
        return self.slots / (steps * self.step(self.slots) + self.slots * self.prompt_s)


@dataclass(frozen=True)
class Outcome:
    """Seconds from the arrival to the first step, and to the end, of the requests behind the first tenth."""

    queue_p95_s: float
    total_p50_s: float
    total_p95_s: float


class _Replica:
    """Sequences as remaining steps; whoever comes waits for the end of the step."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.waiting: deque[tuple[float, int]] = deque()
        self.running: list[list[float]] = []
        self.queue_s: list[float] = []
        self.total_s: list[float] = []

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.running)

    def advance(self, now: float) -> float | None:
        """Do one step from `now` on; when it ends, or None if there is nothing to do."""
        end = now
        while self.waiting and len(self.running) < self.server.slots:
            arrived, steps = self.waiting.popleft()
            self.queue_s.append(now - arrived)
            self.running.append([arrived, steps])
            end += self.server.prompt_s
        if not self.running:
            return None
        end += self.server.step(len(self.running))
        for sequence in self.running:
            sequence[1] -= 1
        self.total_s += [end - arrived for arrived, left in self.running if left <= 0]
        self.running = [sequence for sequence in self.running if sequence[1] > 0]
        return end


def simulate(
    server: Server, replicas: int, per_second: float, steps: float, requests: int = 4000, seed: int = 0
) -> Outcome:
    """Arrivals of a Poisson process; lengths geometric around `steps`."""
    chance = random.Random(seed)
    pool = [_Replica(server) for _ in range(replicas)]
    idle = set(range(replicas))
    busy: list[tuple[float, int]] = []
    now = 0.0

    def work_until(limit: float) -> None:
        while busy and busy[0][0] <= limit:
            moment, number = heapq.heappop(busy)
            end = pool[number].advance(moment)
            idle.add(number) if end is None else heapq.heappush(busy, (end, number))

    for _ in range(requests):
        now += chance.expovariate(per_second)
        work_until(now)
        number = min(range(replicas), key=lambda each: pool[each].load)
        length = max(1, round(chance.expovariate(1 / steps)))
        pool[number].waiting.append((now, length))
        if number in idle:
            idle.discard(number)
            heapq.heappush(busy, (now, number))
    work_until(float("inf"))
    queue = sorted(value for each in pool for value in each.queue_s[len(each.queue_s) // 10 :])
    total = sorted(value for each in pool for value in each.total_s[len(each.total_s) // 10 :])
    return Outcome(_at(queue, 0.95), _at(total, 0.5), _at(total, 0.95))


def replicas_for(server: Server, per_second: float, steps: float, queue_s: float) -> int:
    """The fewest replicas with which 95 of 100 requests wait no longer than `queue_s`."""
    number = max(1, int(per_second / server.most_per_second(steps)))
    while simulate(server, number, per_second, steps).queue_p95_s > queue_s:
        number += 1
    return number


def _at(values: list[float], part: float) -> float:
    return values[round(part * (len(values) - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests-per-second", type=float, required=True)
    parser.add_argument("--steps", type=float, default=1, help="tokens of an answer; 1 for encoder and gateway")
    parser.add_argument("--step-s", type=float, required=True, help="what a step costs whoever is in it")
    parser.add_argument("--per-sequence-s", type=float, default=0.0, help="what each sequence adds to a step")
    parser.add_argument("--prompt-s", type=float, default=0.0, help="what a request costs before its first step")
    parser.add_argument("--slots", type=int, default=64, help="max_num_seqs")
    parser.add_argument("--queue-s", type=float, default=0.5, help="the longest wait that 95 of 100 may have")
    given = parser.parse_args()
    server = Server(given.step_s, given.per_sequence_s, given.prompt_s, given.slots)
    number = replicas_for(server, given.requests_per_second, given.steps, given.queue_s)
    found = simulate(server, number, given.requests_per_second, given.steps)
    print(f"one replica ends at most {server.most_per_second(given.steps):.1f} requests/s")
    print(f"replicas: {number}; and one more for each that may be away")
    print(f"queue p95 {found.queue_p95_s:.3f} s, request p50 {found.total_p50_s:.2f} s, p95 {found.total_p95_s:.2f} s")


if __name__ == "__main__":
    main()
