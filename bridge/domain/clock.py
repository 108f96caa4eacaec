"""The clocks. A pass or transaction reads them once, at its beginning; rules are given the time."""

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

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        """The present instant, aware UTC."""
        return datetime.now(UTC)


class SteadyClock:
    """Wall time that goes on evenly when the machine's wall clock is set, until `shift` says to follow it.

    In between every duration that is computed from instants is right, however the wall clock jumps.
    """

    def __init__(self, machine: Clock | None = None) -> None:
        self._machine = machine or SystemClock()
        self.monotonic = self._machine.monotonic  # read a dozen times per poll: without a call in between
        self._offset_s = self._machine_offset_s()

    def now(self) -> datetime:
        """The present instant, aware UTC."""
        return datetime.fromtimestamp(self._offset_s + self.monotonic(), UTC)

    @property
    def zero_at(self) -> datetime:
        """The time on this clock at which the monotonic clock was zero."""
        return datetime.fromtimestamp(self._offset_s, UTC)

    def lag_s(self) -> float:
        """Seconds by which the machine's wall clock is ahead of this one."""
        return self._machine_offset_s() - self._offset_s

    def shift(self, seconds: float) -> None:
        """Set this clock forward by so much, or back."""
        self._offset_s += seconds

    def _machine_offset_s(self) -> float:
        return self._machine.now().timestamp() - self._machine.monotonic()
