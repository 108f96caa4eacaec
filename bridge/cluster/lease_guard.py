"""The lease guard: whether this node may still begin work under its lease, by its own monotonic clock.

    a renewal begins ──────────► the guard closes ──────► the lease ends, others take over
                     OPEN_SHARE of the lease        the rest allows for clocks, a slow database, work under way

It closes by itself: a node that is cut off from the database, or wakes from a long sleep, begins nothing that another
node may be doing already.
"""

from __future__ import annotations

import math
from typing import Final

from bridge.domain.clock import Clock

OPEN_SHARE: Final = 0.8


class LeaseGuard:
    """Whether this node's lease still lets it begin work. Open until the first `extend`: on SQLite there is no lease."""

    def __init__(self, clock: Clock) -> None:
        self.closes_at = math.inf
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether a poll or a POST may begin now."""
        return self._clock.monotonic() < self.closes_at

    def extend(self, renewed_at: float, lease_s: float) -> None:
        """Extend the lease by a renewal that began at `renewed_at` (monotonic) and succeeded."""
        self.closes_at = renewed_at + OPEN_SHARE * lease_s
