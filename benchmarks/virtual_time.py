"""Runs in virtual time: traces of one workflow, and what a polling policy costs on them.

A trace is a Poisson stream with about four runs in flight. A policy sees only responses, "alive" or
"finished", never the durations. Responses are instantaneous; every request counts one.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from families import Distribution, Family, best_schedule

IN_FLIGHT = 4
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.25, 3600.0


@dataclass(frozen=True)
class TracedRun:
    """One run: its start, its duration, and the law of that duration."""

    start_s: float
    duration_s: float
    law: Distribution


@dataclass(frozen=True)
class Cost:
    """The cost of a policy on a trace, per run: requests, and delay in seconds."""

    polls: float
    delay_s: float

    def at(self, price_s: float) -> float:
        """Delay + price · polls."""
        return self.delay_s + price_s * self.polls


class LearningPolicy(Protocol):
    """A policy that learns when to poll: one per workflow and status."""

    def observe(self, alive_s: float, finished_s: float) -> None: ...
    def next_age(
        self, alive_s: float, price_s: float, min_interval_s: float, max_interval_s: float, in_flight: Sequence[float]
    ) -> float: ...


def make_trace(family: Family, runs: int, seed: int) -> list[TracedRun]:
    """Return `runs` runs of a family, in the order of their starts."""
    chance = random.Random(f"{family.name}/{seed}")
    trace, start = [], 0.0
    for number in range(runs):
        law = family.part(number, runs)
        start += chance.expovariate(IN_FLIGHT / law.mean)
        trace.append(TracedRun(start, law.draw(chance), law))
    return trace


def poll_trace(
    trace: list[TracedRun], learner: LearningPolicy, price_s: float, *, knows_end: bool = False, replans: bool = True
) -> list[tuple[int, float]]:
    """Polls and delay of every run when `learner` decides and learns from each run that ends.

    `knows_end`: the provider reports how long a finished run took. `replans`: each end moves the next poll of the
    other runs in flight at once.
    """
    due = {number: run.start_s for number, run in enumerate(trace)}
    queue = [(at, number) for number, at in due.items()]
    alive: dict[int, float] = {}
    polls, delays = [-1] * len(trace), [0.0] * len(trace)  # the call at age 0 is the registration, not a poll

    def plan(number: int, now: float) -> None:
        ages = [seen for other, seen in alive.items() if other != number]
        age = learner.next_age(alive[number], price_s, MIN_INTERVAL_S, MAX_INTERVAL_S, ages)
        due[number] = max(now, trace[number].start_s + age)
        heapq.heappush(queue, (due[number], number))

    while queue:
        now, number = heapq.heappop(queue)
        run = trace[number]
        if due.get(number) != now:
            continue
        age = now - run.start_s
        polls[number] += 1
        if age < run.duration_s:
            alive[number] = age
            plan(number, now)
            continue
        delays[number] = age - run.duration_s
        del due[number]
        last = alive.pop(number)
        learner.observe(*((run.duration_s, run.duration_s) if knows_end else (last, age)))
        for other in alive if replans else ():
            plan(other, now)
    return list(zip(polls, delays, strict=True))


def mean_cost(results: Sequence[tuple[int, float]]) -> Cost:
    """The mean over runs."""
    return Cost(sum(p for p, _ in results) / len(results), sum(d for _, d in results) / len(results))


def follow_schedule(ages: list[float], duration_s: float) -> tuple[int, float]:
    """Polls and delay of one run that is polled at fixed ages; after the last one, the last gap repeats."""
    at = bisect_left(ages, duration_s)
    if at < len(ages):
        return at + 1, ages[at] - duration_s
    gap = ages[-1] - ages[-2] if len(ages) > 1 else ages[-1]
    extra = math.ceil((duration_s - ages[-1]) / max(gap, 0.001))
    return len(ages) + extra, ages[-1] + extra * max(gap, 0.001) - duration_s


def fixed_cost(trace: list[TracedRun], interval_s: float) -> Cost:
    """The cost of polling every `interval_s`."""
    counts = [math.ceil(run.duration_s / interval_s) for run in trace]
    return mean_cost([(n, n * interval_s - run.duration_s) for n, run in zip(counts, trace, strict=True)])


def back_off_ages(growth: float, cap_s: float, until_s: float = 4e6) -> list[float]:
    """The ages of a back-off that starts at 1 s."""
    ages, gap = [1.0], 1.0
    while ages[-1] < until_s:
        gap = min(gap * growth, cap_s)
        ages.append(ages[-1] + gap)
    return ages


def scheduled(trace: list[TracedRun], ages: list[float]) -> list[tuple[int, float]]:
    """Polls and delay of every run when all are polled at the same ages."""
    return [follow_schedule(ages, run.duration_s) for run in trace]


def optimum(trace: list[TracedRun], price_s: float) -> list[tuple[int, float]]:
    """Polls and delay at this price for a policy that knows the law of each run."""
    laws = {id(run.law): run.law for run in trace}
    plans = {key: best_schedule(law, price_s) for key, law in laws.items()}
    return [follow_schedule(plans[id(run.law)], run.duration_s) for run in trace]


def frontier(points: list[Cost]) -> list[Cost]:
    """The costs that no other undercuts in both polls and delay, by rising polls."""
    kept: list[Cost] = []
    for point in sorted(points, key=lambda p: (p.polls, p.delay_s)):
        if not kept or point.delay_s < kept[-1].delay_s:
            kept.append(point)
    return kept


def polls_at(points: list[Cost], delay_s: float) -> float:
    """Polls that the frontier of `points` needs for this mean delay, straight in log-log; never below its fewest."""
    front = frontier(points)
    line = [(math.log(p.delay_s), math.log(p.polls)) for p in reversed(front)]
    return max(math.exp(_interpolate(line, math.log(delay_s))), front[0].polls)


def delay_at(points: list[Cost], polls: float) -> float:
    """Mean delay that the frontier of `points` reaches with this many polls, straight in log-log."""
    return math.exp(_interpolate([(math.log(p.polls), math.log(p.delay_s)) for p in frontier(points)], math.log(polls)))


def _interpolate(points: list[tuple[float, float]], x: float) -> float:
    at = min(max(bisect_left(points, (x, -math.inf)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
