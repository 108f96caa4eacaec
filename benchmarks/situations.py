"""Situations beyond one workflow's trace: a limited provider, progress, a list endpoint, runs that never end.

Virtual time, standard library only, every learner starts empty.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from families import Distribution, lognormal, mixture, pareto, uniform
from virtual_time import MAX_INTERVAL_S, MIN_INTERVAL_S, Cost, back_off_ages, follow_schedule

from bridge.domain.cadence.durations import DurationModel
from bridge.domain.cadence.list_rule import WatchedRun, wait_before_list
from bridge.domain.cadence.progress import ProgressModel, ProgressTrack
from bridge.domain.cadence.rule import effective_price, hung_factor
from bridge.domain.limits.fair_limiter import Candidate, FairRateLimiter

LIMIT_PER_S = 5.0


@dataclass(eq=False)
class Active:
    """A run in flight, and its last poll."""

    workflow: int
    start_s: float
    duration_s: float
    alive_s: float = 0.0
    polled_at: float = 0.0
    due_at: float = 0.0


class Workflows:
    """One duration model per workflow; each end moves the next poll of the other runs in flight."""

    def __init__(self, count: int, price_s: float) -> None:
        self.models = [DurationModel() for _ in range(count)]
        self.price_s = price_s

    def plan(self, run: Active) -> None:
        estimate = self.models[run.workflow].estimate
        run.due_at = run.start_s + estimate.next_age(run.alive_s, self.price_s, MIN_INTERVAL_S, MAX_INTERVAL_S)

    def finish(self, run: Active, now: float, in_flight: list[Active]) -> None:
        model = self.models[run.workflow]
        model.observe(run.alive_s, now - run.start_s)
        others = [other for other in in_flight if other.workflow == run.workflow]
        model.refit([other.alive_s for other in others])
        for other in others:
            self.plan(other)


def arrivals(laws: Sequence[Distribution], per_s: float, count: int, seed: int) -> list[Active]:
    """`count` runs of equally frequent workflows, a Poisson stream."""
    chance = random.Random(seed)
    runs, now = [], 0.0
    for _ in range(count):
        now += chance.expovariate(per_s)
        workflow = chance.randrange(len(laws))
        runs.append(Active(workflow, now, laws[workflow].draw(chance), polled_at=now))
    return runs


@dataclass(frozen=True)
class Mix:
    """Workflows that share an account, and how many of their runs start per second."""

    laws: tuple[Distribution, ...]
    runs_per_s: float


def crowded() -> Mix:
    """Many shapes of about half a minute: fewer than two requests per run."""
    bimodal = mixture((0.5, lognormal(3, 0.1)), (0.5, lognormal(120, 0.1)))
    shapes = (uniform(28.5, 31.5), lognormal(8, 0.3), lognormal(8, 1.3), lognormal(60, 0.3), bimodal, pareto(10, 1.5))
    return Mix(shapes, 3.0)


def long_and_short() -> Mix:
    """Wide ten-minute runs among short ones: little to learn from."""
    bimodal = mixture((0.5, lognormal(3, 0.1)), (0.5, lognormal(120, 0.1)))
    return Mix((lognormal(8, 0.8), lognormal(60, 0.3), lognormal(600, 0.8), bimodal, pareto(10, 1.5)), 1.4)


def limited(mix: Mix, order: str, count: int, *, announced: bool, price_s: float = 0.5) -> tuple[float, float]:
    """Mean delay (s) and share of 429s at a provider that takes 5 requests per second.

    `order`: "round robin", "W" or "index". Without `announced`, the limiter has to learn the limit.
    """
    waiting = arrivals(mix.laws, mix.runs_per_s, count, seed=1)[::-1]
    learned = Workflows(len(mix.laws), price_s)
    limiter = FairRateLimiter(LIMIT_PER_S if announced else None)
    active: list[Active] = []
    delays, requests, refused, now, allowance, filled_at = [], 0, 0, 0.0, LIMIT_PER_S, 0.0
    while waiting or active:
        while waiting and waiting[-1].start_s <= now:
            active.append(waiting.pop())
            learned.plan(active[-1])
        chosen = _choose(order, limiter, learned, active, now) if limiter.opens_at() <= now else None
        if chosen is None:
            coming = [_ready_at(order, run) for run in active] + [run.start_s for run in waiting[-1:]]
            now = max(limiter.opens_at(), min(coming))
            continue
        requests += 1
        limiter.send(now)
        allowance, filled_at = min(allowance + (now - filled_at) * LIMIT_PER_S, LIMIT_PER_S), now
        if not announced and allowance < 1:
            refused += 1
            limiter.refuse(now, sent_at=now, retry_after_s=1.0)
            continue
        allowance -= 1
        limiter.answer(now, sent_at=now)
        chosen.polled_at = now
        if now - chosen.start_s >= chosen.duration_s:
            delays.append(now - chosen.start_s - chosen.duration_s)
            active.remove(chosen)
            learned.finish(chosen, now, active)
        else:
            chosen.alive_s = now - chosen.start_s
            learned.plan(chosen)
    return sum(delays) / len(delays), refused / requests


def _ready_at(order: str, run: Active) -> float:
    return run.polled_at + MIN_INTERVAL_S if order == "round robin" else run.due_at


def _choose(
    order: str, limiter: FairRateLimiter, learned: Workflows, active: list[Active], now: float
) -> Active | None:
    ready = [run for run in active if _ready_at(order, run) <= now]
    if order == "round robin":
        return min(ready, key=lambda run: run.polled_at, default=None)
    candidates = []
    for run in ready:
        estimate = learned.models[run.workflow].estimate
        urgency = (estimate.index if order == "index" else estimate.lateness)(run.alive_s, now - run.start_s)
        candidates.append(Candidate(run, urgency, 0.0))
    chosen = limiter.pick(candidates)
    return chosen.key if chosen else None  # type: ignore[return-value]


def listed(count: int, price_s: float, *, active: int = 60, every_s: float | None = None) -> Cost:
    """Requests and delay per run when one list request shows every run: the summed-W rule, or every `every_s`.

    Begins with the full number of runs and ends with the last arrival, so that times with few runs do not count.
    """
    bimodal = mixture((0.5, lognormal(3, 0.1)), (0.5, lognormal(120, 0.1)))
    laws = [lognormal(8, 0.8), lognormal(60, 0.3), lognormal(60, 0.8), bimodal, lognormal(120, 0.5)]
    mean_s = sum(law.mean for law in laws) / len(laws)
    waiting = arrivals(laws, active / mean_s, count, seed=1)[::-1]
    learned = Workflows(len(laws), price_s)
    last = due = 300.0
    watched: list[Active] = []
    while waiting[-1].start_s < due:
        run = waiting.pop()
        if run.start_s + run.duration_s > due:
            watched.append(run)
    requests, delays = 0, []
    while waiting:
        now = min(due, waiting[-1].start_s)
        if now < due:
            watched.append(waiting.pop())
        else:
            requests, last = requests + 1, now
            over = [run for run in watched if now - run.start_s >= run.duration_s]
            watched = [run for run in watched if now - run.start_s < run.duration_s]
            for run in over:
                delays.append(now - run.start_s - run.duration_s)
                learned.finish(run, now, watched)
            for run in watched:
                run.alive_s = now - run.start_s
        due = last + every_s if every_s else now + _list_wait(learned, watched, now, last)
    return Cost(requests / len(delays), sum(delays) / len(delays))


def _list_wait(learned: Workflows, watched: list[Active], now: float, last: float) -> float:
    views = [WatchedRun(learned.models[run.workflow].estimate, run.alive_s, now - run.start_s) for run in watched]
    return wait_before_list([views], learned.price_s, MIN_INTERVAL_S, 300.0, since_s=now - last)


def with_progress(count: int, price_s: float, *, last_factor: float, uses_progress: bool) -> Cost:
    """One run after another of 5 to 40 steps, 60 s in the median; the last step takes `last_factor` times as long.

    A run's own speed varies with σ 0.6 in log time, its steps with σ 0.4.
    """
    chance = random.Random(7)
    plain, learner = DurationModel(), ProgressModel()
    polls, delay_s = 0, 0.0
    for _ in range(count):
        speed, steps = math.exp(0.6 * chance.gauss(0, 1)), chance.randint(5, 40)
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
            track, alive = track.seen(sum(end <= age for end in ends), steps, age), age
        delay_s += age - ends[-1]
        if uses_progress:
            learner.observe(track, alive, age, plain.estimate)
        plain.observe(alive, age)
    return Cost(polls / count, delay_s / count)


@dataclass(frozen=True)
class HungCost:
    """Requests per run that never ends, by back-off and learned, and the cost of the other runs."""

    back_off_polls: float
    hung_polls: float
    normal: Cost
    normal_back_off: Cost


def with_hung_runs(count: int, price_s: float, *, deadline_s: float = 3600.0) -> HungCost:
    """Every twentieth run hangs until its deadline; the workflow is log-normal, 60 s, σ 0.8."""
    chance, law = random.Random(5), lognormal(60, 0.8)
    model, queue = DurationModel(), []
    durations = [math.inf if i % 20 == 10 else law.draw(chance) for i in range(count)]
    starts = [i * law.mean / 4 for i in range(count)]
    alive, polls, delays = [0.0] * count, [0] * count, [0.0] * count
    in_flight: set[int] = set()

    def plan(i: int) -> None:
        if model.is_stale:
            model.refit([alive[other] for other in in_flight if other != i])
        price = effective_price(price_s * hung_factor(alive[i], model.usual_s), run_id=str(i), age_s=alive[i])
        age = model.estimate.next_age(alive[i], price, MIN_INTERVAL_S, 300.0)
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
        if age >= durations[i] or age >= deadline_s - 1e-6:
            in_flight.discard(i)
            delays[i] = max(age - durations[i], 0.0) if durations[i] < deadline_s else 0.0
            model.observe(alive[i], age if age >= durations[i] else math.inf)
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
