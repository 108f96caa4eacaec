"""When to send one request that observes many runs.

A list is due when the lateness of all runs that it will show adds up to the price of one request. Where they stand
on several pages, it is due when the first n pages add up to n prices, for any n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

from bridge.domain.cadence.estimate import Estimate

PRECISION: Final = 0.02  # of the wait


class GrowingLateness(Protocol):
    """Runs whose lateness grows until the next list."""

    def lateness(self, later_s: float = 0.0) -> float:
        """Seconds of lateness `later_s` seconds from now, times a weight."""
        ...


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """One watched run: the estimate for runs like it, and its ages in seconds when last seen alive and now."""

    estimate: Estimate
    alive_s: float
    age_s: float
    weight: float = 1.0

    def lateness(self, later_s: float = 0.0) -> float:
        """The lateness of this run `later_s` seconds from now, in seconds, times its weight."""
        return self.weight * self.estimate.lateness(self.alive_s, self.age_s + later_s)


@dataclass(frozen=True, slots=True)
class UnregisteredRuns:
    """Runs that were not registered and begin at `per_s` per second; the last list was `since_s` seconds ago.

    Only the usual duration is known of them, so each counts from its beginning.
    """

    estimate: Estimate
    per_s: float
    since_s: float
    weight: float = 1.0

    def lateness(self, later_s: float = 0.0) -> float:
        """Their lateness together: that of one run, integrated over all ages since the last list by Simpson's rule."""
        elapsed_s = self.since_s + later_s
        summed = 4 * self.estimate.lateness(0.0, elapsed_s / 2) + self.estimate.lateness(0.0, elapsed_s)
        return self.weight * self.per_s * elapsed_s / 6 * summed


def wait_before_list(
    pages: Sequence[Sequence[GrowingLateness]],
    price_s: float,
    min_interval_s: float,
    max_interval_s: float,
    *,
    since_s: float,
) -> float:
    """Seconds from now until the list is due; the last one was sent `since_s` seconds ago.

    `pages` holds the runs by the page that shows them. Without any, the list is due `max_interval_s` after the last.
    """
    soonest, latest = max(min_interval_s - since_s, 0.0), max(max_interval_s - since_s, 0.0)
    if latest <= soonest or worth_of_pages(pages, latest) < price_s:
        return latest
    if worth_of_pages(pages, soonest) >= price_s:
        return soonest
    step = max(soonest, 0.05)
    while step < latest and worth_of_pages(pages, step) < price_s:
        soonest, step = step, step * 2
    latest = min(step, latest)
    while latest - soonest > PRECISION * latest:
        middle = (soonest + latest) / 2
        if worth_of_pages(pages, middle) >= price_s:
            latest = middle
        else:
            soonest = middle
    return latest


def worth_of_pages(pages: Sequence[Sequence[GrowingLateness]], later_s: float = 0.0) -> float:
    """The worth of each request `later_s` seconds from now, for the number of pages that makes it worth most."""
    summed = accumulate(sum(run.lateness(later_s) for run in page) for page in pages)
    return max((worth / requests for requests, worth in enumerate(summed, 1)), default=0.0)
