"""The gate of one credential: how many requests a second, how many at once, and when not at all.

Told limits are kept exactly. Untold ones are learned: a 429 takes a fifth of the rate away, each success
while the rate is in use gives a little back.
"""

from __future__ import annotations

import math

RATE_UNTOLD = 20.0  # requests a second to begin with; well under what any of the four is known to refuse
IN_FLIGHT_UNTOLD = 16
RATE_MIN = 0.05
BURST_S = 0.5  # how many seconds' worth of unused rate may be spent at once


class Gate:
    """Seats and tokens. Times are monotonic seconds, handed in."""

    def __init__(self, requests_per_second: float | None, max_in_flight: int | None) -> None:
        self.rate_is_told = requests_per_second is not None
        self.rate = requests_per_second or RATE_UNTOLD
        self.seats = max_in_flight or IN_FLIGHT_UNTOLD
        self.in_flight = 0
        self.closed_until = 0.0
        self._tokens = 1.0
        self._counted_at = 0.0
        self._slowed_at = -math.inf

    @property
    def burst(self) -> float:
        """Requests that may follow each other at once after a rest."""
        return max(1.0, self.rate * BURST_S)

    def opens_in_s(self, now: float) -> float:
        """Seconds until a request may go; 0 at once, infinity while every seat is taken (a return rings)."""
        if self.in_flight >= self.seats:
            return math.inf
        if now < self.closed_until:
            return self.closed_until - now
        self._count(now)
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self.rate

    def enter(self, now: float) -> None:
        """Take a seat and a token."""
        self._count(now)
        self._tokens -= 1.0
        self.in_flight += 1

    def leave(self) -> None:
        """Give the seat back."""
        self.in_flight -= 1

    def close_for(self, seconds: float, now: float) -> None:
        """Nobody goes for so long: the provider asked for it, or does not answer."""
        self.closed_until = max(self.closed_until, now + seconds)

    def open_now(self) -> None:
        """Forget a closing."""
        self.closed_until = 0.0

    def slow_down(self, now: float) -> None:
        """A 429 came: a fifth of the rate goes, at most once a second."""
        if not self.rate_is_told and now - self._slowed_at >= 1.0:
            self.rate = max(RATE_MIN, self.rate * 0.8)
            self._slowed_at = now

    def speed_up(self, now: float) -> None:
        """A request was answered while the rate was in use."""
        if not self.rate_is_told and self._tokens < 1.0 and now > self.closed_until:
            self.rate += 0.05 / self.rate

    def _count(self, now: float) -> None:
        self._tokens = min(self.burst, self._tokens + (now - self._counted_at) * self.rate)
        self._counted_at = now
