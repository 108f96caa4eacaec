"""When to send one request that observes many runs: a list endpoint is worth more than any scheduling.

Fires when the lateness of all runs that the answer will show adds up to the price of one request. What is
sent anyway is filled with the runs that are next in line: riding along is free.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from bridge.domain.cadence_estimate import Estimate

PRECISION: Final = 0.02  # of the wait


class Accruing(Protocol):
    """Something that gathers lateness until the next list."""

    def lateness(self, later_s: float = 0.0) -> float:
        """Seconds of lateness `later_s` seconds from now, times a weight."""
        ...


@dataclass(frozen=True, slots=True)
class WatchedAge:
    """A run as the list rule sees it: what is known of runs like it, last seen alive, and now; ages in seconds."""

    estimate: Estimate
    alive_s: float
    age_s: float
    weight: float = 1.0

    def lateness(self, later_s: float = 0.0) -> float:
        """W of this run `later_s` seconds from now, in seconds, times its weight."""
        return self.weight * self.estimate.lateness(self.alive_s, self.age_s + later_s)


@dataclass(frozen=True, slots=True)
class Unseen:
    """The runs that nobody has told us of, begun since the last list `since_s` seconds ago, `per_s` every second.

    Nothing is known of them but how long runs last here, so each counts from its beginning.
    """

    estimate: Estimate
    per_s: float
    since_s: float
    weight: float = 1.0

    def lateness(self, later_s: float = 0.0) -> float:
        """Their W together: that of one run over all ages up to the time gone by, by Simpson's rule."""
        gone_s = self.since_s + later_s
        summed = 4 * self.estimate.lateness(0.0, gone_s / 2) + self.estimate.lateness(0.0, gone_s)
        return self.weight * self.per_s * gone_s / 6 * summed


def wait_before_list(
    runs: Sequence[Accruing], price_s: float, min_interval_s: float, max_interval_s: float, *, since_s: float
) -> float:
    """Seconds from now until the list should be asked for; `since_s` seconds have passed since it was last.

    Without runs, `max_interval_s` after the last time.
    """
    soonest, latest = max(min_interval_s - since_s, 0.0), max(max_interval_s - since_s, 0.0)
    if not runs or latest <= soonest or _summed(runs, latest) < price_s:
        return latest
    if _summed(runs, soonest) >= price_s:
        return soonest
    step = max(soonest, 0.05)
    while step < latest and _summed(runs, step) < price_s:
        soonest, step = step, step * 2
    latest = min(step, latest)
    while latest - soonest > PRECISION * latest:
        middle = (soonest + latest) / 2
        if _summed(runs, middle) >= price_s:
            latest = middle
        else:
            soonest = middle
    return latest


def fill_batch(runs: Sequence[WatchedAge], places: int) -> list[int]:
    """The positions of the runs to ask for when one request takes at most `places`: the largest W first."""
    return heapq.nlargest(places, range(len(runs)), key=lambda i: runs[i].lateness())


def _summed(runs: Sequence[Accruing], later_s: float) -> float:
    return sum(run.lateness(later_s) for run in runs)
