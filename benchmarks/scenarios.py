"""Situations beyond one workflow's trace: a limited provider, progress, a list endpoint, runs that never end.

Virtual time, standard library only, cold start throughout.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from families import Distribution, lognormal, mixture, pareto
from virtual_time import MAX_INTERVAL_S, MIN_INTERVAL_S, Cost, back_off_ages, follow_schedule

from bridge.domain.cadence_batch import WatchedAge, wait_before_list
from bridge.domain.cadence_gate import Candidate, Gate
from bridge.domain.cadence_price import effective_price
from bridge.domain.cadence_progress import ProgressSojourn, ProgressTrack
from bridge.domain.cadence_sojourn import Sojourn

LIMIT_PER_S = 5.0
Urgency = Callable[["Active", float], float]


@dataclass(eq=False)
class Active:
    """A run in flight, and what was last seen of it."""

    workflow: int
    start_s: float
    duration_s: float
    alive_s: float = 0.0
    polled_at: float = field(default=0.0)


class Workflows:
    """One learner per workflow; ages of runs in flight go into each fit."""

    def __init__(self, count: int) -> None:
        self.sojourns = [Sojourn() for _ in range(count)]

    def watch(self, run: Active, now: float) -> WatchedAge:
        return WatchedAge(self.sojourns[run.workflow].estimate, run.alive_s, now - run.start_s)

    def finish(self, run: Active, now: float, in_flight: list[Active]) -> None:
        sojourn = self.sojourns[run.workflow]
        sojourn.observe(run.alive_s, now - run.start_s)
        sojourn.refit([other.alive_s for other in in_flight if other.workflow == run.workflow])


def arrivals(laws: list[Distribution], per_s: float, count: int, seed: int) -> list[Active]:
    """`count` runs of equally frequent workflows, a Poisson stream."""
    chance = random.Random(seed)
    runs, now = [], 0.0
    for _ in range(count):
        now += chance.expovariate(per_s)
        workflow = chance.randrange(len(laws))
        runs.append(Active(workflow, now, laws[workflow].draw(chance), polled_at=now))
    return runs


def busy_mix() -> list[Distribution]:
    """Five workflows that share an account."""
    bimodal = mixture((0.5, lognormal(3, 0.1)), (0.5, lognormal(120, 0.1)))
    return [lognormal(8, 0.8), lognormal(60, 0.3), lognormal(600, 0.8), bimodal, pareto(10, 1.5)]


def limited(order: str, count: int, *, announced: bool, seed: int = 1, price_s: float = 0.5) -> tuple[float, float]:
    """Mean delay (s) and share of 429s at a provider that takes 5 requests per second.

    `order`: "round robin", "W" or "index". Without `announced` the gate has to find the limit out.
    """
    waiting = arrivals(busy_mix(), 1.4, count, seed)[::-1]
    learned = Workflows(5)
    gate = Gate(LIMIT_PER_S if announced else None)
    active: list[Active] = []
    delays, requests, refused, now, allowance, filled_at = [], 0, 0, 0.0, LIMIT_PER_S, 0.0
    while waiting or active:
        while waiting and waiting[-1].start_s <= now:
            active.append(waiting.pop())
        chosen = _choose(order, gate, learned, active, now, price_s) if gate.opens_at() <= now else None
        if chosen is None:
            now = max(now + 0.05, gate.opens_at()) if active else max(now, waiting[-1].start_s)
            continue
        requests += 1
        gate.send(now)
        allowance, filled_at = min(allowance + (now - filled_at) * LIMIT_PER_S, LIMIT_PER_S), now
        if not announced and allowance < 1:
            refused += 1
            gate.refuse(now, sent_at=now, retry_after_s=1.0)
            continue
        allowance -= 1
        gate.answer(now, sent_at=now)
        chosen.polled_at = now
        if now - chosen.start_s >= chosen.duration_s:
            delays.append(now - chosen.start_s - chosen.duration_s)
            active.remove(chosen)
            learned.finish(chosen, now, active)
        else:
            chosen.alive_s = now - chosen.start_s
    return sum(delays) / len(delays), refused / requests


def _choose(
    order: str, gate: Gate, learned: Workflows, active: list[Active], now: float, price_s: float
) -> Active | None:
    if order == "round robin":
        ready = [run for run in active if now - run.polled_at >= MIN_INTERVAL_S]
        return min(ready, key=lambda run: run.polled_at, default=None)
    candidates = []
    for run in active:
        age = now - run.start_s
        estimate = learned.sojourns[run.workflow].estimate
        urgency = (estimate.index if order == "index" else estimate.lateness)(run.alive_s, age)
        if now - run.polled_at >= MIN_INTERVAL_S:
            candidates.append(Candidate(run, urgency, price_s))
    chosen = gate.pick(candidates)
    return chosen.key if chosen else None  # type: ignore[return-value]


def listed(count: int, price_s: float, *, active: int = 60, seed: int = 1) -> Cost:
    """Requests and delay per run when one list request shows every run, sent by the summed-W rule."""
    bimodal = mixture((0.5, lognormal(3, 0.1)), (0.5, lognormal(120, 0.1)))
    laws = [lognormal(8, 0.8), lognormal(60, 0.3), lognormal(60, 0.8), bimodal, lognormal(120, 0.5)]
    mean_s = sum(law.mean for law in laws) / len(laws)
    waiting = arrivals(laws, active / mean_s, count, seed)[::-1]
    learned = Workflows(len(laws))
    watched: list[Active] = []
    requests, delays, last, due = 0, [], 0.0, math.inf
    while waiting or watched:
        now = min(due, waiting[-1].start_s if waiting else math.inf)
        if now < due:
            watched.append(waiting.pop())
        else:
            requests += 1
            last = now
            over = [run for run in watched if now - run.start_s >= run.duration_s]
            watched = [run for run in watched if now - run.start_s < run.duration_s]
            for run in over:
                delays.append(now - run.start_s - run.duration_s)
                learned.finish(run, now, watched)
            for run in watched:
                run.alive_s = now - run.start_s
        views = [learned.watch(run, now) for run in watched]
        due = now + wait_before_list(views, price_s, MIN_INTERVAL_S, 300.0, since_s=now - last)
    return Cost(requests / count, sum(delays) / count)


def with_progress(count: int, price_s: float, *, steps: int, last_factor: float, uses_progress: bool) -> Cost:
    """One run after another that reports completed steps; the last step may take `last_factor` times as long."""
    chance = random.Random(f"{steps}/{last_factor}")
    plain, learner = Sojourn(), ProgressSojourn()
    polls, delay_s = 0, 0.0
    for _ in range(count):
        speed = math.exp(0.6 * chance.gauss(0, 1))
        ends, age = [], 0.0
        for step in range(steps):
            age += 60 / steps * speed * math.exp(0.4 * chance.gauss(0, 1)) * (last_factor if step == steps - 1 else 1)
            ends.append(age)
        track, alive = ProgressTrack(), 0.0
        while True:
            if uses_progress and learner.is_useful(track):
                age = learner.next_age(track, alive, price_s, MIN_INTERVAL_S, MAX_INTERVAL_S)
            else:
                age = plain.estimate.next_age(alive, price_s, MIN_INTERVAL_S, MAX_INTERVAL_S)
            polls += 1
            if age >= ends[-1]:
                break
            track, alive = track.seen(sum(end <= age for end in ends) / steps, age), age
        delay_s += age - ends[-1]
        if uses_progress:
            learner.observe(track, alive, age, plain.estimate)
        plain.observe(alive, age)
    return Cost(polls / count, delay_s / count)


@dataclass(frozen=True)
class HungCost:
    """Requests per run that never ends, at back-off and learned, and what the others cost beside them."""

    back_off_polls: float
    hung_polls: float
    normal: Cost
    normal_back_off: Cost


def with_hung_runs(count: int, price_s: float, *, deadline_s: float = 3600.0) -> HungCost:
    """Every twentieth run hangs until its deadline; the workflow is log-normal, 60 s, σ 0.8."""
    chance, law = random.Random(5), lognormal(60, 0.8)
    sojourn, queue = Sojourn(), []
    durations = [math.inf if i % 20 == 10 else law.draw(chance) for i in range(count)]
    starts = [i * law.mean / 4 for i in range(count)]
    alive, polls, delays = [0.0] * count, [0] * count, [0.0] * count
    in_flight: set[int] = set()

    def plan(i: int) -> None:
        if sojourn.is_stale:
            sojourn.refit([alive[other] for other in in_flight if other != i])
        price = effective_price(price_s, run_id=str(i), age_s=alive[i])
        age = sojourn.estimate.next_age(alive[i], price, MIN_INTERVAL_S, 300.0)
        heapq.heappush(queue, (starts[i] + min(age, deadline_s), i))

    for i, start in enumerate(starts):
        heapq.heappush(queue, (start, i))
    while queue:
        now, i = heapq.heappop(queue)
        age = now - starts[i]
        if i not in in_flight:
            in_flight.add(i)
            plan(i)
            continue
        polls[i] += 1
        if age >= durations[i] or age >= deadline_s:
            in_flight.discard(i)
            delays[i] = max(age - durations[i], 0.0) if durations[i] < deadline_s else 0.0
            sojourn.observe(alive[i], age if age >= durations[i] else math.inf)
        else:
            alive[i] = age
            plan(i)
    ages = back_off_ages(1.5, 60)
    hung = [i for i in range(count) if durations[i] == math.inf]
    normal = [i for i in range(count) if durations[i] < deadline_s]
    followed = [follow_schedule(ages, durations[i]) for i in normal]
    return HungCost(
        follow_schedule(ages, deadline_s)[0],
        sum(polls[i] for i in hung) / len(hung),
        Cost(sum(polls[i] for i in normal) / len(normal), sum(delays[i] for i in normal) / len(normal)),
        Cost(sum(p for p, _ in followed) / len(normal), sum(d for _, d in followed) / len(normal)),
    )
