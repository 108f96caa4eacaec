"""A replay: sends a selection of events to one endpoint again, with the same ids and bytes.

    running ──► done            (every event of the selection was made due)
       └──────► cancelled       (by a person, or its endpoint was removed)

It continues from its cursor after a crash, waits while its endpoint is disabled, and never gets far ahead of it.
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
    """Seconds until the next batch; 0 if the instant is further ahead than any rest, because the clock was set back."""
    wait_s = (next_batch_at - now).total_seconds()
    return wait_s if 0 < wait_s <= _REST_MAX_S else 0.0


class ReplayStatus(StrEnum):
    """The fate of an event at the endpoint.

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
    """Which events: recorded from `since` and before `until`, of these types (empty: all), with this status.

    `last_position` is the last event that existed when the replay was created, so that it ends on a busy bridge.
    """

    since: datetime
    until: datetime | None = None
    types: tuple[EventType, ...] = ()
    status: ReplayStatus = ReplayStatus.ALL
    last_position: int | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay. `rate` is in deliveries made due per second; `position` is that of the last event considered."""

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
        """The number of deliveries that are made due together: at most 100 and at most one second's worth."""
        return max(1, min(100, int(self.rate)))
