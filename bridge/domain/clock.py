"""Where time comes from: handed in at the door of a pass or transaction, never read below it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for instants, monotonic time for durations."""

    def now(self) -> datetime:
        """The present instant, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """The present instant, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is advanced; for tests and simulations."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> datetime:
        """The present instant, aware UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; moves only with `advance`."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks."""
        from datetime import timedelta

        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
