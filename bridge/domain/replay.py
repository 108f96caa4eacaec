"""A replay: a person has a selection of events sent to one endpoint again, same ids, same bytes.

    running ──► done            (every event of the selection was made due)
       └──────► cancelled       (by a person, or its endpoint was removed)

It goes on where it stood after a crash, waits while its endpoint is switched off, and never gets far ahead of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from bridge.domain.event import EventType

RATE_DEFAULT: Final = 50.0
RATE_MIN, RATE_MAX = 0.1, 1000.0
_REST_MAX_S: Final = 1 / RATE_MIN


def rest_s(next_batch_at: datetime, now: datetime) -> float:
    """Seconds until the next batch may be made; none where the instant lies beyond any rest: the clock was set back."""
    wait_s = (next_batch_at - now).total_seconds()
    return wait_s if 0 < wait_s <= _REST_MAX_S else 0.0


class ReplayStatus(StrEnum):
    """What became of an event at the endpoint.

    `missed`: it was never delivered there and will not be, because it was never meant to be sent at the time (the
    endpoint was switched off or not yet there) or its retry schedule is used up. `failed`: it was tried in vain.
    """

    ALL = "all"
    FAILED = "failed"
    DELIVERED = "delivered"
    MISSED = "missed"
    EXHAUSTED = "exhausted"
    PENDING = "pending"


class ReplayState(StrEnum):
    """Where a replay stands."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events: recorded from `since` on and before `until`, of these types (empty: all), that ended so.

    `last_position`: none behind it, so that a replay on a busy bridge comes to an end.
    """

    since: datetime
    until: datetime | None = None
    types: tuple[EventType, ...] = ()
    status: ReplayStatus = ReplayStatus.ALL
    last_position: int | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay. `rate`: deliveries made due per second; `position`: of the last event that was looked at."""

    id: str
    endpoint_id: str
    selection: Selection
    rate: float
    state: ReplayState
    count: int
    replayed: int
    position: int
    next_batch_at: datetime
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def batch_max(self) -> int:
        """How many are made due together: at most 100 and no more than a second's worth."""
        return max(1, min(100, int(self.rate)))
