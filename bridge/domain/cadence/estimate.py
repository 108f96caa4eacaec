"""The estimate of how long a run stays in a status, and what follows from it for polling.

The one quantity behind every decision is the lateness W of a run that was last seen alive at age a:

    W(t) = ∫ₐᵗ P(finished by u | alive at a) du          the delay to be expected if it is polled at age t

Poll when W reaches the price of a request. When requests are scarce, poll the run with the largest W. When one
request observes many runs, send it when their W together reach the price. W weighs gaps and spikes in the
distribution correctly because it integrates; where polls are few per run an exact plan (`plan_polls`) takes over.

A distribution of durations is a list of masses on a grid of cells from 0.1 s to 30 days, each 3 % longer than the one
before and evenly filled. Equal steps in log time suit durations: 3 % matter as much at 5 seconds as at 5 hours.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

_Line = tuple[float, float, int]  # slope, value at 0, the grid point it stands for


def plan_polls(ages_s: Sequence[float], finished: Sequence[float], price_s: float, min_interval_s: float) -> list[int]:
    """The cheapest poll ages: for every grid point, that of the next poll when the run was seen alive there.

    Minimises E[delay] + price · E[polls] (Barlow, Hunter and Proschan 1963) over schedules on a grid, exactly and in one
    sweep. From point j, alive, the next poll at point m costs price · S_j + Σ (grid_m − t) over what finishes between
    them. Its only term in both j and m is −grid_m · F_j, so each point m is a straight line in x = F_j with slope
    −grid_m. The sweep goes from old to young: slopes rise, x falls, and the best line is found on a lower envelope that
    is walked once. The result is a table from age to next poll, not a list of instants: after a late, lost or
    rate-limited poll it still holds.

    `ages_s` rises from 0; `finished[i]` is P(finished by ages_s[i]), 1 at the end; `price_s` is the delay that one
    request is worth. Polls keep `min_interval_s` apart, except that the last point is always allowed.
    """
    last = len(ages_s) - 1
    moment = [
        0.0,
        *accumulate((finished[i] - finished[i - 1]) * (ages_s[i] + ages_s[i - 1]) / 2 for i in range(1, last + 1)),
    ]
    cost, successor = [0.0] * (last + 1), [last] * (last + 1)
    envelope: list[_Line] = []
    best, addable = 0, last
    for j in range(last - 1, -1, -1):
        earliest = ages_s[j] + min_interval_s
        while addable > j and (addable == last or ages_s[addable] >= earliest):
            age = ages_s[addable]
            _add_line(envelope, best, (-age, age * finished[addable] - moment[addable] + cost[addable], addable))
            addable -= 1
        best = min(best, len(envelope) - 1)
        x = finished[j]
        while best + 1 < len(envelope) and _value(envelope[best + 1], x) <= _value(envelope[best], x):
            best += 1
        successor[j] = envelope[best][2]
        cost[j] = price_s * (1 - x) + moment[j] + _value(envelope[best], x)
    return successor


def _value(line: _Line, x: float) -> float:
    return line[0] * x + line[1]


def _add_line(envelope: list[_Line], best: int, line: _Line) -> None:
    """Append `line` and drop the lines before it that are now nowhere lowest."""
    slope, base, _ = line
    while len(envelope) - best >= 2:
        (slope_1, base_1, _), (slope_0, base_0, _) = envelope[-1], envelope[-2]
        if (base - base_0) * (slope_1 - slope_0) > (base_1 - base_0) * (slope - slope_0):
            break
        envelope.pop()
    envelope.append(line)


FIRST_EDGE_S: Final = 0.1
STEP: Final = 1.03  # from one edge to the next
CELLS: Final = 579
EDGES_S: Final[tuple[float, ...]] = (0.0, *(FIRST_EDGE_S * STEP**i for i in range(CELLS)))
WIDTHS_S: Final[tuple[float, ...]] = tuple(b - a for a, b in pairwise(EDGES_S))
END_S: Final = EDGES_S[-1]  # 30.4 days, just over the default deadline


def cell_at(age_s: float) -> int:
    """The cell that holds an age. A cell includes its upper edge; ages beyond the grid are in the last cell."""
    cell = bisect_left(EDGES_S, age_s) - 1
    return cell if 0 <= cell < CELLS else 0 if cell < 0 else CELLS - 1  # min and max take as long as the search


def log_logistic(median_s: float, spread: float) -> list[float]:
    """Masses of a log-logistic distribution; `spread` is its logistic scale in log time (1.2: a factor 14 at p90)."""
    inner = [1 / (1 + math.exp(min(700.0, -math.log(edge / median_s) / spread))) for edge in EDGES_S[1:-1]]
    reached = [0.0, *inner, 1.0]
    return [b - a for a, b in pairwise(reached)]


def kernel_decay(width: float) -> float:
    """The factor per cell of a two-sided exponential kernel whose scale is `width` in log time (0.05: 5 %)."""
    return math.exp(-math.log(STEP) / width)


def smooth(mass: Sequence[float], decay: float) -> list[float]:
    """`mass` smoothed by a two-sided exponential kernel and normalised to 1; one pass each way."""
    carried, behind = 0.0, []  # loops, because a call per cell would take a third longer
    for own in mass:
        carried = carried * decay + own
        behind.append(carried)
    carried, blurred = 0.0, []
    for own, sum_behind in zip(reversed(mass), reversed(behind), strict=True):
        blurred.append(sum_behind + carried)
        carried = (carried + own) * decay
    blurred.reverse()
    total = sum(blurred)
    return [value / total for value in blurred]


def covered_shares(low_s: float, high_s: float) -> tuple[int, list[float]]:
    """The first cell that the interval (low, high] touches, and the share of each touched cell that it covers.

    An interval within one cell counts as the whole cell, the finest that is known.
    """
    low_s, high_s = min(low_s, EDGES_S[-2]), min(high_s, END_S)
    last = cell_at(high_s)
    first = min(cell_at(low_s * (1 + 1e-9)), last)
    if first == last or high_s - low_s < 1e-6:
        return last, [1.0]
    return first, [
        max(0.0, min(EDGES_S[i + 1], high_s) - max(EDGES_S[i], low_s)) / WIDTHS_S[i] for i in range(first, last + 1)
    ]


SPARSE_CELLS: Final = 4  # a wait over more cells than this is planned exactly
PLANS_PER_OCTAVE: Final = 4  # plans are cached per price, in steps of 2^(1/4): 9 % off the price costs < 0.5 %
OLD_S: Final = EDGES_S[-3]  # older runs are beyond the grid: their hazard is taken as 1 / age
FORECAST_POLLS_MAX: Final = 400
ALIVE_MIN: Final = 1e-12
INDEX_MAX: Final = 8.0  # times W, at most: a gap in the density would make the scarcity index infinite


@dataclass(frozen=True, slots=True)
class ExpectedCost:
    """The expected cost of polling a run at a price: requests, and mean delay in seconds."""

    polls: float
    delay_s: float


class Estimate:
    """A distribution of durations with its running sums; never changes once made.

    `spread` is A = ∫√(density · survival): dense polling at price λ costs A·√(2λ) (Keller 1974). Its square
    over the mean is the best possible delay relative to a well-tuned fixed interval.
    """

    __slots__ = ("_ahead", "_alive", "_plans", "mass", "prices", "spread")

    def __init__(self, mass: Sequence[float]) -> None:
        total = sum(mass)
        self.mass = [value / total for value in mass]
        self._alive = list(accumulate(reversed(self.mass), initial=0.0))[::-1]  # P(alive) at every edge
        slabs = [(a + b) / 2 * width for a, b, width in zip(self._alive, self._alive[1:], WIDTHS_S, strict=False)]
        self._ahead = list(accumulate(reversed(slabs), initial=0.0))[::-1]  # ∫ P(alive) from every edge on
        self.spread = sum(
            math.sqrt(value * alive * width)
            for value, alive, width in zip(self.mass, self._alive[1:], WIDTHS_S, strict=True)
        )
        self._plans: dict[tuple[int, int], list[int]] = {}
        self.prices: dict[float, float] = {}  # target delay → price, remembered by `price_for_target`

    def lateness(self, alive_s: float, age_s: float) -> float:
        """W: seconds of delay to be expected when a run last seen alive at `alive_s` is polled at `age_s`."""
        if age_s <= alive_s:
            return 0.0
        if alive_s >= OLD_S:
            return (age_s - alive_s) ** 2 / (2 * alive_s)
        alive, ahead, _ = self._at(alive_s)
        return max(0.0, (age_s - alive_s) - (ahead - self._at(age_s)[1]) / max(alive, ALIVE_MIN))

    def alive_at_edge(self, cell: int) -> float:
        """P(still alive) at the lower edge of a cell."""
        return self._alive[cell]

    def chance(self, known_alive_s: float, alive_s: float, finished_s: float) -> float:
        """P(over within (alive_s, finished_s] | alive at known_alive_s); an interval counts at least its cell's width."""
        alive = max(self._at(known_alive_s)[0], ALIVE_MIN)
        finished_s = max(finished_s, alive_s + WIDTHS_S[cell_at(alive_s)])
        return max(0.0, self._at(max(alive_s, known_alive_s))[0] - self._at(finished_s)[0]) / alive

    def finished(self, alive_s: float, age_s: float) -> float:
        """The probability that a run last seen alive at `alive_s` is over at `age_s`."""
        return max(0.0, 1 - self._at(age_s)[0] / max(self._at(alive_s)[0], ALIVE_MIN))

    def late_within(self, alive_s: float, over_s: float) -> float:
        """Expected seconds from the end of a run to `over_s`, given that it ended in (alive_s, over_s]."""
        ended = self.finished(alive_s, over_s)
        if ended <= ALIVE_MIN:
            return (over_s - alive_s) / 2
        return min(self.lateness(alive_s, over_s) / ended, over_s - alive_s)

    def index(self, alive_s: float, age_s: float) -> float:
        """Urgency when requests are scarce, in seconds: W with a bonus for runs that have little left to wait for.

        A Whittle-type index, q² / (2 q′ (1 − q)) with q = P(finished) and q′ its growth: equal to W while q is
        small, larger where q has stopped growing, because waiting longer gains nothing there.
        """
        lateness = self.lateness(alive_s, age_s)
        if alive_s >= OLD_S or lateness <= 0:
            return lateness
        alive, _, _ = self._at(alive_s)
        left, _, cell = self._at(age_s)
        q = 1 - left / max(alive, ALIVE_MIN)
        growth = self.mass[cell] / WIDTHS_S[cell] / max(alive, ALIVE_MIN)
        ceiling = INDEX_MAX * lateness
        return min(max(q * q / max(2 * growth * (1 - q), q * q / ceiling), lateness), ceiling) if q > 0 else lateness

    def next_age(self, alive_s: float, price_s: float, min_interval_s: float, max_interval_s: float) -> float:
        """The age at which to poll next a run last seen alive at `alive_s`.

        `price_s` is the delay in seconds that one request is worth. The gap keeps within the two intervals; if they
        contradict each other, `max_interval_s` binds.
        """
        alive_s = max(alive_s, 0.0)
        if alive_s >= OLD_S:
            wanted = math.sqrt(2 * price_s * alive_s)
        else:
            age = self._age_of_lateness(alive_s, price_s)
            if age - alive_s > SPARSE_CELLS * WIDTHS_S[cell_at(age)]:
                age = self._planned_age(alive_s, price_s, min_interval_s)
            wanted = age - alive_s
        return alive_s + min(max(wanted, min_interval_s), max_interval_s)

    def expected_cost(self, price_s: float) -> ExpectedCost:
        """Polls and delay expected of a run polled at this price from age 0; the last 0.2 % of runs are left out."""
        polls, delay_s, age = 0.0, 0.0, 0.0
        for _ in range(FORECAST_POLLS_MAX):
            alive = self._at(age)[0]
            if alive < 0.002:
                break
            after = self.next_age(age, price_s, 0.0, 1e9)
            polls += alive
            delay_s += alive * self.lateness(age, after)
            age = after
        return ExpectedCost(polls, delay_s)

    def quantile(self, share: float) -> float:
        """The age in seconds by which this share of runs is over."""
        left = 1 - share
        i = bisect_left(self._alive, -left, key=lambda alive: -alive)
        if i == 0:
            return 0.0
        i = min(i, CELLS)
        within = (self._alive[i - 1] - left) / max(self.mass[i - 1], ALIVE_MIN)
        return EDGES_S[i - 1] + min(max(within, 0.0), 1.0) * WIDTHS_S[i - 1]

    def mean_up_to(self, age_s: float) -> float:
        """E[min(duration, age)] in seconds; without a bound the long tail of the prior would dominate the mean."""
        return self._ahead[0] - self._at(age_s)[1]

    def _at(self, age_s: float) -> tuple[float, float, int]:
        """P(alive), the integral of P(alive) from here on, and the cell, at an age."""
        if age_s >= END_S:
            return 0.0, 0.0, CELLS - 1
        cell = cell_at(age_s)
        rest = EDGES_S[cell + 1] - age_s
        after = self._alive[cell + 1]
        alive = after + self.mass[cell] * rest / WIDTHS_S[cell]
        return alive, self._ahead[cell + 1] + (after + alive) / 2 * rest, cell

    def _age_of_lateness(self, alive_s: float, price_s: float) -> float:
        """The age at which W reaches the price: a search for the cell, then a quadratic inside it."""
        alive, ahead, cell = self._at(alive_s)
        alive = max(alive, ALIVE_MIN)
        needed = price_s * alive
        edges, ahead_of = EDGES_S, self._ahead
        reached = needed + alive * alive_s + ahead  # W at an edge is the price where alive · edge + ahead_of is this
        low = high = cell + 1
        stride = 1
        # Waits are mostly short: gallop, then bisect.
        while high < CELLS and alive * edges[high] + ahead_of[high] < reached:
            low, high, stride = high + 1, high + stride, stride * 2
        high = min(high, CELLS)
        while low < high:
            middle = (low + high) // 2
            if alive * edges[middle] + ahead_of[middle] >= reached:
                high = middle
            else:
                low = middle + 1
        low = min(low, CELLS)
        start = max(EDGES_S[low - 1], alive_s)
        alive_there, ahead_there, _ = self._at(start) if start > alive_s else (alive, ahead, cell)
        missing = max(needed - (alive * (start - alive_s) - (ahead - ahead_there)), 0.0)
        finished, density = alive - alive_there, self.mass[low - 1] / WIDTHS_S[low - 1]
        root = math.sqrt(finished * finished + 2 * density * missing)
        step = 2 * missing / (finished + root) if finished + root > 0 else WIDTHS_S[low - 1]
        return start + min(step, WIDTHS_S[low - 1])

    def _planned_age(self, alive_s: float, price_s: float, min_interval_s: float) -> float:
        """The next poll of the exact plan, interpolated between the plan's rows around `alive_s`."""
        key = (round(_steps(price_s)), round(_steps(min_interval_s)))  # of progress both differ with every run
        if key not in self._plans:
            finished = [1 - alive for alive in self._alive]
            self._plans[key] = plan_polls(EDGES_S, finished, *(2 ** (step / PLANS_PER_OCTAVE) for step in key))
        successor = self._plans[key]
        if alive_s <= 0:
            return EDGES_S[successor[0]]
        cell = cell_at(alive_s)
        below, above = EDGES_S[successor[cell]], EDGES_S[successor[cell + 1]] if cell + 1 < CELLS else END_S
        share = (alive_s - EDGES_S[cell]) / WIDTHS_S[cell]
        return (1 - share) * below + share * above


def _steps(seconds: float) -> float:
    return PLANS_PER_OCTAVE * math.log2(max(seconds, 1e-6))
