"""The back-off of an endpoint: when the next delivery may be sent, judged by the results so far.

    open ── 5 failures in a row ────────────────► resting ── rest over ─► probed with one delivery at a time
     ▲ ◄── 429, 502, 503 with Retry-After, 504 ─► paused ─── pause over ─►    │         │
     └────────────────────────── first success ──────────────────────────────┘         └─ failure: rests again, longer

Deliveries that wait for an endpoint that rests or is paused use up no attempts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from bridge.domain.delivery import RETRY_AFTER_MAX_S, Outcome, PostResult

FAILURES_MIN: Final = 5
REST_S, REST_S_MAX = 5.0, 300.0  # doubled by each failed probe
PAUSE_S, PAUSE_S_MAX = 1.0, 300.0  # doubled by each further such answer, where the receiver names no longer one
_UNREACHABLE = frozenset({Outcome.TIMEOUT, Outcome.DNS, Outcome.CONNECT, Outcome.TLS, Outcome.SERVER_ERROR})
_REACHED = frozenset({Outcome.CLIENT_ERROR, Outcome.REDIRECT, Outcome.GONE, Outcome.THROTTLED})
_OVERLOADED = frozenset({429, 502, 504})  # Standard Webhooks 1.0.0: "slow down"


@dataclass(frozen=True, slots=True)
class EndpointBackoff:
    """`failures` and `slowdowns` count in a row; the receiver asked for `paused_until`, `probe_at` is our own rest."""

    failures: int = 0
    slowdowns: int = 0
    paused_until: datetime | None = None
    probe_at: datetime | None = None

    @property
    def is_probed(self) -> bool:
        """It gets one delivery at a time until one succeeds."""
        return self.failures >= FAILURES_MIN or self.slowdowns > 0

    @property
    def opens_at(self) -> datetime | None:
        """Nothing is sent before this instant; None if it is open."""
        return max((at for at in (self.paused_until, self.probe_at) if at is not None), default=None)


def backoff_after(backoff: EndpointBackoff, answer: PostResult, *, now: datetime) -> EndpointBackoff:
    """The back-off after one more result.

    Results of POSTs that began before the endpoint closed may still arrive; they do not lengthen a rest or pause.
    """
    if answer.outcome is Outcome.DELIVERED:
        return EndpointBackoff(paused_until=_ahead(backoff.paused_until, now))
    if answer.outcome in _REACHED:
        backoff = replace(backoff, failures=0, probe_at=None)
    elif answer.outcome in _UNREACHABLE:
        backoff = _rested(backoff, now)
    if answer.status in _OVERLOADED or (answer.status == 503 and answer.retry_after_s is not None):
        return _paused(backoff, answer, now)
    return replace(backoff, slowdowns=0) if answer.outcome in _REACHED else backoff


def _rested(backoff: EndpointBackoff, now: datetime) -> EndpointBackoff:
    if _ahead(backoff.probe_at, now):
        return backoff
    failures = backoff.failures + 1
    if failures < FAILURES_MIN:
        return replace(backoff, failures=failures)
    rest_s = _doubled(REST_S, failures - FAILURES_MIN, REST_S_MAX)
    return replace(backoff, failures=failures, probe_at=now + timedelta(seconds=rest_s))


def _paused(backoff: EndpointBackoff, answer: PostResult, now: datetime) -> EndpointBackoff:
    """Pause at least as long as the receiver asks (up to 24 h) and as our own doubling pause."""
    is_first = not _ahead(backoff.paused_until, now)
    slowdowns = backoff.slowdowns + (1 if is_first else 0)
    own_s = _doubled(PAUSE_S, slowdowns - 1, PAUSE_S_MAX) if is_first and answer.status in _OVERLOADED else 0.0
    pause_s = max(own_s, min(answer.retry_after_s or 0.0, RETRY_AFTER_MAX_S))
    until = now + timedelta(seconds=pause_s)
    later = until if backoff.paused_until is None else max(until, backoff.paused_until)
    return replace(backoff, slowdowns=max(1, slowdowns), paused_until=later)


def _doubled(first_s: float, times: int, most_s: float) -> float:
    return min(first_s * 2.0 ** min(times, 30), most_s)


def _ahead(at: datetime | None, now: datetime) -> datetime | None:
    """`at` while it lies in the future, else None."""
    return at if at is not None and at > now else None
