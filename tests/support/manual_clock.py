"""A clock that stands still until a test advances it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


class ManualClock:
    """Both times of `bridge.domain.clock.Clock`, moved by `advance`; `set_wall` moves the wall clock alone."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_wall(self, jump_s: float) -> None:
        self._now += timedelta(seconds=jump_s)
