"""The fence: whether this node may still begin anything on the strength of its lease, by its own monotonic clock.

    a renewal begins ──────────► the fence closes ──────► the lease ends, others take over
                     SURE_SHARE of the lease        the rest is for clocks, a slow database, what is under way

It closes by itself, without asking anybody: a node that is cut off from the database, or wakes from a long sleep,
begins nothing that another node may be doing already.
"""

from __future__ import annotations

import math
from typing import Final

from bridge.domain.clock import Clock

SURE_SHARE: Final = 0.8


class LeaseGuard:
    """Open for ever until it is first told of a lease: where there is only one node there is nothing to fence off."""

    def __init__(self, clock: Clock) -> None:
        self.closes_at = math.inf
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether a poll or a POST may begin now."""
        return self._clock.monotonic() < self.closes_at

    def extend(self, renewed_at: float, lease_s: float) -> None:
        """A renewal that began at `renewed_at` (monotonic) went well."""
        self.closes_at = renewed_at + SURE_SHARE * lease_s
