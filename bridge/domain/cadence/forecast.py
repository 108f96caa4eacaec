"""Forecast of the poll schedule for a workflow; display only.

It holds for a run that is running when it is registered, reports no progress and has no cadence of its own.
Where requests are scarce, or a list shows many runs at once, polls come at other times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bridge.domain.cadence.estimate import EDGES_S, FORECAST_POLLS_MAX, Estimate, ExpectedCost, cell_at
from bridge.domain.cadence.rule import RunView, next_poll, price_of
from bridge.domain.connection import CadenceSettings
from bridge.domain.run import RunStatus

ANY_RUN: Final = "run 28389"  # an id whose phase is 1 to six digits
POLLED_SHARE: Final = 0.995  # of runs have ended by the last poll that is shown
COUNTED_SHARE: Final = 0.998  # of runs count in what is expected
TAIL: Final = 0.02  # of runs at either end are not shown: every estimate keeps a little of its prior
CELLS_MAX: Final = 120


@dataclass(frozen=True, slots=True)
class Cell:
    """The share of runs that end at an age in (from_s, to_s], seconds."""

    from_s: float
    to_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The polls of a typical run.

    `price_s` is the price of a request while the run is young; `polls_s` are the ages at which it is polled while it
    goes on, 0 first.
    """

    price_s: float
    polls_s: tuple[float, ...]
    cost: ExpectedCost


def forecast_polls(settings: CadenceSettings, belief: Estimate, *, is_new: bool = False) -> Forecast:
    """The polls of a run that is seen running at age 0, and what they cost on average.

    `is_new` as for `RunView`. The last poll is that at its deadline. After the 400th (days, at `max_interval`) the last gap is repeated.
    """
    ages_s, polls, delay_s, alive, gap_s = [0.0], 1.0, 0.0, 1.0, settings.max_interval_s
    while alive > 1 - COUNTED_SHARE and len(ages_s) <= FORECAST_POLLS_MAX and ages_s[-1] < settings.deadline_s:
        age_s = ages_s[-1]
        next_s = min(age_s + next_poll(settings, _any_run(belief, age_s, is_new=is_new)).delay_s, settings.deadline_s)
        gap_s = next_s - age_s
        polls += alive
        delay_s += alive * belief.lateness(age_s, next_s)
        alive = 1 - belief.finished(0.0, next_s)
        ages_s.append(next_s)
    counted_s = min(belief.quantile(COUNTED_SHARE), settings.deadline_s)
    if ages_s[-1] < counted_s:
        polls += (belief.mean_up_to(counted_s) - belief.mean_up_to(ages_s[-1])) / gap_s
        delay_s += alive * gap_s / 2
    last_s = belief.quantile(POLLED_SHARE)
    shown = [0.0, *(age for before, age in pairwise(ages_s) if before < last_s)]
    return Forecast(price_of(settings, _any_run(belief, 0.0)), tuple(shown), ExpectedCost(polls, delay_s))


def duration_cells(belief: Estimate) -> list[Cell]:
    """When the runs between the tails end: at most 120 cells of equal length in log time."""
    first, last = cell_at(belief.quantile(TAIL)), cell_at(belief.quantile(1 - TAIL))
    step = -(-(last + 1 - first) // CELLS_MAX)
    bounds = [*range(first, last + 1, step), last + 1]
    return [Cell(EDGES_S[a], EDGES_S[b], sum(belief.mass[a:b])) for a, b in pairwise(bounds)]


def _any_run(belief: Estimate, alive_s: float, *, is_new: bool = False) -> RunView:
    return RunView(ANY_RUN, RunStatus.RUNNING, belief, alive_s, is_new=is_new)
