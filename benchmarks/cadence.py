"""Measure the gain of the learned cadence in virtual time: `python benchmarks/cadence.py [--quick]`.

Learners start empty, and their cold start is part of every figure; providers report no end times. Ratios come from
one seed: read them as ±5 %. The table at the end compares every figure with its target; --quick measures little more
than the cold start and gives no verdict. Under 3 minutes; --quick under 30 seconds.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from families import Family, families
from situations import crowded, limited, listed, long_and_short, with_hung_runs, with_progress
from virtual_time import (
    Cost,
    TracedRun,
    back_off_ages,
    delay_at,
    fixed_cost,
    make_trace,
    mean_cost,
    optimum,
    poll_trace,
    polls_at,
    scheduled,
)

from bridge.domain.cadence.durations import KNOWN_MIN, DurationModel
from bridge.domain.cadence.rule import FIRST_AGE_S, hung_factor, longest_first_gap_s

PRICES_S = (0.05, 0.5, 2.0, 8.0)
MAIN_PRICE_S = 0.5
FIXED_S = [0.1 * 1.35**i for i in range(26)]
OPTIMUM_PRICES_S = [0.005 * 1.8**i for i in range(18)]
BUCKETS = ((1, 4), (5, 10), (11, 20), (21, 50), (51, 150), (151, 300))


class ColdLearner:
    """A `DurationModel` as a LearningPolicy."""

    def __init__(self) -> None:
        self.model = DurationModel()

    def observe(self, alive_s: float, finished_s: float) -> None:
        self.model.observe(alive_s, finished_s)

    def next_age(
        self, alive_s: float, price_s: float, min_interval_s: float, max_interval_s: float, in_flight: Sequence[float]
    ) -> float:
        if self.model.is_stale:
            self.model.refit(in_flight)
        long_runs = sum(age_s >= FIRST_AGE_S for age_s in in_flight)
        if self.model.is_new and self.model.runs + long_runs < KNOWN_MIN:
            max_interval_s = min(max_interval_s, longest_first_gap_s(alive_s))
        price_s *= hung_factor(alive_s, self.model.usual_s)
        return self.model.estimate.next_age(alive_s, price_s, min_interval_s, max_interval_s)


@dataclass
class Measured:
    """Everything measured on one family's trace; lists hold (polls, delay) per run."""

    family: Family
    trace: list[TracedRun]
    learned: dict[float, list[tuple[int, float]]] = field(default_factory=dict)
    best: dict[float, list[tuple[int, float]]] = field(default_factory=dict)
    back_off: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    fixed: dict[float, Cost] = field(default_factory=dict)

    def learned_costs(self) -> list[Cost]:
        return [mean_cost(results) for results in self.learned.values()]


def measure(family: Family, runs: int, prices: Sequence[float]) -> Measured:
    """Run every policy on one trace of this family."""
    trace = make_trace(family, runs, seed=1)
    found = Measured(family, trace)
    for price in prices:
        found.learned[price] = poll_trace(trace, ColdLearner(), price)
    for price in {*OPTIMUM_PRICES_S, *prices}:
        found.best[price] = optimum(trace, price)
    found.back_off = {
        "x1.5/60": scheduled(trace, back_off_ages(1.5, 60)),
        "x2/30": scheduled(trace, back_off_ages(2, 30)),
    }
    found.fixed = {interval: fixed_cost(trace, interval) for interval in [*FIXED_S, 2.0, 3.0]}
    return found


def geomean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def pooled(costs: Sequence[Cost]) -> Cost:
    """All families together, each with the same weight."""
    return Cost(sum(c.polls for c in costs) / len(costs), sum(c.delay_s for c in costs) / len(costs))


References = list[tuple[str, Callable[[Measured], Cost]]]
REFERENCES: References = [
    ("fixed 2 s", lambda m: m.fixed[2.0]),
    ("fixed 3 s", lambda m: m.fixed[3.0]),
    ("x1.5 cap 60", lambda m: mean_cost(m.back_off["x1.5/60"])),
    ("x2 cap 30", lambda m: mean_cost(m.back_off["x2/30"])),
]


def print_families(all_found: list[Measured]) -> None:
    """One line per family at the main price."""
    print(f"\nEach family at {MAIN_PRICE_S} s per request; delay in seconds; learned ÷ reference")
    print(f"{'':14}{'learned':>16}{'optimum':>16}{'x1.5 cap 60':>16}   polls÷optimum   delay÷back-off   first 10 runs")
    for m in all_found:
        learned, best = mean_cost(m.learned[MAIN_PRICE_S]), mean_cost(m.best[MAIN_PRICE_S])
        back_off = mean_cost(m.back_off["x1.5/60"])
        cells = "".join(f"{c.polls:7.1f} {c.delay_s:7.2f}s" for c in (learned, best, back_off))
        print(
            f"{m.family.name:14}{cells}{over_optimum(m):14.2f}{over_back_off(m):17.2f}{first_ten(m):16.2f}", flush=True
        )


def over_optimum(m: Measured, price_s: float = MAIN_PRICE_S) -> float:
    """Polls ÷ the optimum's at equal delay."""
    cost = mean_cost(m.learned[price_s])
    return cost.polls / polls_at([mean_cost(r) for r in m.best.values()], cost.delay_s)


def over_back_off(m: Measured) -> float:
    """Delay ÷ that of back-off ×1.5 capped at 60 s, at equal polls."""
    reference = mean_cost(m.back_off["x1.5/60"])
    return delay_at(m.learned_costs(), reference.polls) / reference.delay_s


def first_ten(m: Measured) -> float:
    """Cost of the first ten runs ÷ back-off's."""
    learned, back_off = mean_cost(m.learned[MAIN_PRICE_S][:10]), mean_cost(m.back_off["x1.5/60"][:10])
    return learned.at(MAIN_PRICE_S) / back_off.at(MAIN_PRICE_S)


def print_references(all_found: list[Measured]) -> None:
    """Learned against every simple policy, at equal polls and at equal delay."""
    print("\nLearned ÷ reference: geometric mean over families / worst family")
    print(f"{'':14}{'delay at equal polls':>24}{'polls at equal delay':>24}")
    for name, cost_of in REFERENCES:
        delays = [delay_at(m.learned_costs(), cost_of(m).polls) / cost_of(m).delay_s for m in all_found]
        polls = [polls_at(m.learned_costs(), cost_of(m).delay_s) / cost_of(m).polls for m in all_found]
        print(f"{name:14}{geomean(delays):15.2f} / {max(delays):6.2f}{geomean(polls):15.2f} / {max(polls):6.2f}")


def print_regret(all_found: list[Measured]) -> None:
    """Cost ÷ the optimum's against the number of completed runs."""
    print("\nCost ÷ optimum by number of the run (four in flight), geometric mean over families and prices")
    for first, last in BUCKETS:
        ratios = []
        for m in all_found:
            for price, results in m.learned.items():
                part, best = results[first - 1 : last], m.best[price][first - 1 : last]
                if len(part) == last - first + 1:
                    ratios.append(mean_cost(part).at(price) / mean_cost(best).at(price))
        if ratios:
            print(f"  runs {first:3}-{last:<3}  {geomean(ratios):.3f}")


def pooled_ratios(all_found: list[Measured]) -> tuple[float, float]:
    """Polls ÷ optimum and ÷ best single fixed interval, at equal delay, one price for all families, over prices."""
    best = [pooled([mean_cost(m.best[price]) for m in all_found]) for price in all_found[0].best]
    fixed = [pooled([m.fixed[interval] for m in all_found]) for interval in FIXED_S]
    over_best, over_fixed = [], []
    print("\nAll families pooled, one price")
    for price in all_found[0].learned:
        cost = pooled([mean_cost(m.learned[price]) for m in all_found])
        over_best.append(cost.polls / polls_at(best, cost.delay_s))
        over_fixed.append(cost.polls / polls_at(fixed, cost.delay_s))
        print(
            f"  price {price:5} s: {cost.polls:6.1f} polls, {cost.delay_s:6.2f} s;"
            f"  ÷ optimum {over_best[-1]:.3f}  ÷ best fixed {over_fixed[-1]:.3f}"
        )
    return geomean(over_best), geomean(over_fixed)


def limited_ratios(count: int, mixes: Sequence[str] = ("crowded", "long and short")) -> tuple[float, float]:
    """The worse of two mixes: mean delay ÷ round robin with the scarcity index; share of 429, limit unannounced."""
    print("\nLimited provider, 5 requests per second, cold: mean delay, s")
    ratios, refusals = [], []
    for name in mixes:
        mix = crowded() if name == "crowded" else long_and_short()
        delays = {order: limited(mix, order, count, announced=True)[0] for order in ("round robin", "W", "index")}
        unknown, refused = limited(mix, "index", count, announced=False)
        ratios.append(delays["index"] / delays["round robin"])
        refusals.append(refused)
        line = "  ".join(f"{order} {delay:.2f}" for order, delay in delays.items())
        print(f"  {name:15} {line}  limit unannounced {unknown:.2f}, {refused:.2%} of requests 429", flush=True)
    return max(ratios), max(refusals)


def progress_ratio(count: int) -> float:
    """Delay with progress ÷ without, at 8 polls per run."""
    print("\nProgress (5-40 steps): delay at 5 / 8 / 12 polls per run ÷ the same without it")
    ratios = {}
    for label, factor in (("plain", 1.0), ("last step 5 times as long", 5.0)):
        without = [with_progress(count, p, last_factor=factor, uses_progress=False) for p in (0.1, 0.4, 1.6, 6.4)]
        with_it = [with_progress(count, p, last_factor=factor, uses_progress=True) for p in (0.05, 0.2, 0.8)]
        ratios[label] = [delay_at(with_it, n) / delay_at(without, n) for n in (5, 8, 12)]
        print(f"  {label:26}" + " / ".join(f"{ratio:.2f}" for ratio in ratios[label]), flush=True)
    return ratios["plain"][1]


def list_requests(count: int) -> float:
    """Requests per run at a mean delay of 1 s, 60 runs active."""
    summed, fixed = [listed(count, price) for price in (1.0, 2.0)], listed(count, 1.0, every_s=2.0)
    at_one = polls_at(summed, 1.0)
    print(
        f"\nList, 60 active: {at_one:.2f} requests per run at 1 s mean delay; "
        f"every 2 s: {fixed.polls:.2f} at {fixed.delay_s:.2f} s"
    )
    return at_one


def hung_ratio(count: int) -> float:
    """Requests of a run that never ends ÷ back-off's until the same deadline."""
    cost = with_hung_runs(count, MAIN_PRICE_S)
    print(
        f"\nHung runs (one in twenty, deadline 1 h): {cost.hung_polls:.0f} requests, back-off {cost.back_off_polls:.0f};"
        f" the others {cost.normal.polls:.1f} polls and {cost.normal.delay_s:.1f} s,"
        f" back-off {cost.normal_back_off.polls:.1f} and {cost.normal_back_off.delay_s:.1f} s"
    )
    return cost.hung_polls / cost.back_off_polls


def fastest_s(work: Callable[[], object], times: int = 20) -> float:
    """Seconds of the fastest repetition; the others shared the machine."""
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return min(spent)


def decision_us() -> float:
    """Microseconds for one `next_age` of a learned workflow; prints the time of a fit too."""
    chance, model = random.Random(3), DurationModel()
    for _ in range(100):
        end = 60 * math.exp(0.8 * chance.gauss(0, 1))
        model.observe(end * 0.9, end)
    estimate = model.refit([5.0, 20.0, 80.0])
    fit_ms = fastest_s(lambda: model.refit([5.0, 20.0, 80.0])) * 1e3
    ages = [chance.uniform(0, 200) for _ in range(1000)]
    whole_s = fastest_s(lambda: [estimate.next_age(age, MAIN_PRICE_S, 0.25, 300) for age in ages])
    per_decision = whole_s / len(ages) * 1e6
    print(f"\nOne decision {per_decision:.1f} µs, one fit {fit_ms:.2f} ms, state {len(model.dump()) / 1e3:.1f} kB")
    return per_decision


@dataclass(frozen=True)
class Figure:
    """One figure, its requirement and its aim."""

    what: str
    measured: float
    at_least: float
    aim: float


def print_verdict(lines: list[Figure], *, is_rough: bool) -> None:
    """Print every figure with its targets; smaller is better in every line. A rough run gives no verdict."""
    print(f"\n{'':62}{'measured':>9}{'at least':>9}{'aim':>8}")
    for line in lines:
        verdict = "aim" if line.measured <= line.aim else "yes" if line.measured <= line.at_least else "MISSED"
        verdict = "" if is_rough else verdict
        print(f"{line.what:62}{line.measured:9.3f}{line.at_least:9.3f}{line.aim:8.3f}  {verdict}")


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description="What the learned cadence gains, in virtual time.")
    parser.add_argument("--quick", action="store_true", help="fewer runs: under 30 seconds, rougher figures")
    quick = parser.parse_args().quick
    runs, prices = (50, (0.5, 4.0)) if quick else (300, PRICES_S)
    started = time.perf_counter()
    print(f"{runs} runs per family, four in flight, cold start, no end times from the provider")
    found = [measure(family, runs, prices) for family in families()]
    print_families(found)
    print_references(found)
    print_regret(found)
    over_best, over_fixed = pooled_ratios(found)
    scarce, refused = limited_ratios(250, ["crowded"]) if quick else limited_ratios(1000)
    lines = [
        Figure("requests / optimum at equal mean delay, pooled", over_best, 1.35, 1.15),
        Figure("  the same per family, geometric mean", geomean([over_optimum(m) for m in found]), 1.35, 1.15),
        Figure("requests / best single fixed interval, pooled", over_fixed, 0.60, 0.47),
        Figure("delay at equal polls / back-off x1.5/60, worst family", max(map(over_back_off, found)), 1.0, 0.6),
        Figure("first ten runs: cost / back-off's, geometric mean", geomean([first_ten(m) for m in found]), 1.05, 0.7),
        Figure("  the same, worst family", max(map(first_ten, found)), 1.05, 0.7),
        Figure("limited provider: mean delay / round robin, worse mix", scarce, 0.40, 0.22),
        Figure("share of 429 when the limit is unannounced, worse mix", refused, 0.03, 0.005),
        Figure("progress: delay at equal polls / without it, 8 polls", progress_ratio(25 if quick else 150), 0.5, 0.2),
        Figure("list, 60 active: requests per run at 1 s mean delay", list_requests(400 if quick else 900), 0.8, 0.55),
        Figure("hung run: requests / back-off's", hung_ratio(60 if quick else 300), 2.0, 1.0),
        Figure("one decision, microseconds", decision_us(), 50, 5),
    ]
    print_verdict(lines, is_rough=quick)
    print(f"\nmeasured in {time.perf_counter() - started:.0f} s, {time.process_time():.0f} s of them computing")


if __name__ == "__main__":
    main()
