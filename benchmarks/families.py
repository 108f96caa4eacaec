"""Families of run durations for the cadence benchmark, with the exact optimum for each of them.

Standard library only. A family models the runs of one workflow: narrow, wide, two humps, a heavy tail, a person in
the loop, a change half-way. Durations in seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from bridge.domain.cadence.estimate import plan_polls

GRID_POINTS = 3000


@dataclass(frozen=True)
class Distribution:
    """A law of durations: `draw` samples it, `reached(t)` is P(duration ≤ t), support within low … high."""

    draw: Callable[[random.Random], float]
    reached: Callable[[float], float]
    low: float
    high: float

    @cached_property
    def grid(self) -> list[float]:
        """Candidate poll ages: 0, then geometric from half the lower to just over the upper end."""
        low, high = max(self.low * 0.5, 0.01), self.high * 1.02
        return [0.0] + [low * (high / low) ** (i / (GRID_POINTS - 1)) for i in range(GRID_POINTS)]

    @cached_property
    def on_grid(self) -> list[float]:
        """P(duration ≤ t) at every grid point, exactly 1 at the end."""
        return [0.0] + [self.reached(t) for t in self.grid[1:-1]] + [1.0]

    @cached_property
    def mean(self) -> float:
        """Mean duration, by the trapezium rule on the grid."""
        grid, reached = self.grid, self.on_grid
        return sum((grid[i + 1] - grid[i]) * (1 - (reached[i] + reached[i + 1]) / 2) for i in range(len(grid) - 1))


@dataclass(frozen=True)
class Family:
    """A workflow in the benchmark. With several parts the law changes after equal shares of the trace."""

    name: str
    parts: tuple[Distribution, ...]

    def part(self, number: int, total: int) -> Distribution:
        """The law of run `number` of `total`."""
        return self.parts[number * len(self.parts) // total]


def lognormal(median: float, sigma: float) -> Distribution:
    """Log-normal durations."""
    return Distribution(
        lambda chance: median * math.exp(sigma * chance.gauss(0, 1)),
        lambda t: 0.5 * (1 + math.erf(math.log(t / median) / sigma / math.sqrt(2))) if t > 0 else 0.0,
        median * math.exp(-6 * sigma),
        median * math.exp(6 * sigma),
    )


def uniform(low: float, high: float) -> Distribution:
    """Evenly spread durations."""
    return Distribution(
        lambda chance: chance.uniform(low, high), lambda t: min(max((t - low) / (high - low), 0.0), 1.0), low, high
    )


def pareto(least: float, shape: float, cap: float = 3e4) -> Distribution:
    """Power-law durations from `least`, cut off at `cap`."""
    whole = 1 - (least / cap) ** shape
    return Distribution(
        lambda chance: least * (1 - whole * chance.random()) ** (-1 / shape),
        lambda t: min(max((1 - (least / max(t, least)) ** shape) / whole, 0.0), 1.0),
        least,
        cap,
    )


def mixture(*parts: tuple[float, Distribution]) -> Distribution:
    """Each run follows one of the parts, chosen with the given probability."""
    shares = [share for share, _ in parts]
    return Distribution(
        lambda chance: chance.choices(parts, shares)[0][1].draw(chance),
        lambda t: sum(share * part.reached(t) for share, part in parts),
        min(part.low for _, part in parts),
        max(part.high for _, part in parts),
    )


def families() -> list[Family]:
    """The fifteen families that every figure of the benchmark is pooled over."""
    wide = [(f"ln{median}_{sigma}", lognormal(median, sigma)) for median in (8, 60, 600) for sigma in (0.3, 0.8, 1.3)]
    single = [
        ("det30", uniform(28.5, 31.5)),
        *wide,
        ("bimodal3_120", mixture((0.5, lognormal(3, 0.1)), (0.5, lognormal(120, 0.1)))),
        ("pareto10_1.5", pareto(10, 1.5)),
        ("human", mixture((0.9, lognormal(60, 0.3)), (0.1, lognormal(7200, 0.7)))),
    ]
    changing = [
        Family("doubles", (lognormal(60, 0.3), lognormal(120, 0.3))),
        Family("drops_x20", (lognormal(120, 0.3), lognormal(6, 0.3))),
    ]
    return [Family(name, (law,)) for name, law in single] + changing


def best_schedule(law: Distribution, price_s: float) -> list[float]:
    """The poll ages that minimise E[delay] + price · E[polls] for a known law: a lower bound for any policy."""
    successors = plan_polls(law.grid, law.on_grid, price_s, 0.0)
    ages, point = [], 0
    while point < len(successors) - 1:
        point = successors[point]
        ages.append(law.grid[point])
    return ages
