"""When to send one request that observes many runs: a list endpoint is worth more than any scheduling.

Fires when the lateness of all runs that the answer will show adds up to the price of one request; where they
stand on several pages, when that of the first so many pages adds up to so many prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

from bridge.domain.cadence.estimate import Estimate

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
    pages: Sequence[Sequence[Accruing]],
    price_s: float,
    min_interval_s: float,
    max_interval_s: float,
    *,
    since_s: float,
) -> float:
    """Seconds from now until the list should be asked for; `since_s` seconds have passed since it was last.

    `pages`: the runs by the page that shows them. Without any, `max_interval_s` after the last time.
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


def worth_of_pages(pages: Sequence[Sequence[Accruing]], later_s: float = 0.0) -> float:
    """What a request is worth `later_s` seconds from now if as many pages are read as make it worth most."""
    summed = accumulate(sum(run.lateness(later_s) for run in page) for page in pages)
    return max((worth / requests for requests, worth in enumerate(summed, 1)), default=0.0)
