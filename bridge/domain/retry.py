"""The retry schedule: when to try a failed delivery again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

RETRY_AFTER_MAX_S = 24 * 3600.0


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
    """When to try again after failed attempt number `failures` (the first is 1).

    Each delay is spread by ±20 %. A `Retry-After` later than the delay wins, up to 24 h; one that
    is earlier never does. None once the schedule is used up.
    """
    if failures > len(schedule.delays_s):
        return None
    spread = (chance or random).uniform(1 - schedule.jitter, 1 + schedule.jitter)
    delay_s = schedule.delays_s[failures - 1] * spread
    if retry_after_s is not None:
        delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_MAX_S))
    return now + timedelta(seconds=delay_s)
