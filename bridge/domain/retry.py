"""When to try a failed delivery again: the retry schedule, and a receiver's `Retry-After` (RFC 9110 §10.2.3)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_S = 24 * 3600.0
_SECONDS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Delays between attempts in seconds; the first attempt is made at once.

    The default is the Standard Webhooks 1.0.0 example: ten attempts over about 75 hours.
    `jitter` is the share by which each delay may be shorter or longer.
    """

    delays_s: tuple[float, ...] = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    jitter: float = 0.2


def next_attempt_at(
    failures: int,
    *,
    now: datetime,
    schedule: RetrySchedule,
    retry_after_s: float | None = None,
    chance: random.Random | None = None,
) -> datetime | None:
    """When to try again after failed attempt number `failures` (the first is 1); None once the schedule is used up.

    A `Retry-After` that is longer than the delay replaces it, up to 24 h.
    """
    if failures > len(schedule.delays_s):
        return None
    spread = (chance or random).uniform(1 - schedule.jitter, 1 + schedule.jitter)
    delay_s = schedule.delays_s[failures - 1] * spread
    if retry_after_s is not None:
        delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_MAX_S))
    return now + timedelta(seconds=delay_s)


def parse_retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """The pause in seconds that `headers` (case-insensitive) ask for, at most 24 h; None if none can be read.

    A date is compared with the response's own `Date` if it has one, so that a wrong clock does no harm.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_S)
    then = _http_date(text)
    if then is None:
        return None
    pause_s = (then - (_http_date(headers.get("Date", "")) or now)).total_seconds()
    return min(pause_s, RETRY_AFTER_MAX_S) if pause_s >= 0 else None


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed  # -0000 parses as naive and means UTC
