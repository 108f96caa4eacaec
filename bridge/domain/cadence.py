"""Cadence: when to poll a run next. The one place for that rule.

A plain back-off: soon at first, then ever later, within `min_interval … max_interval`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bridge.domain.connection import CadenceSettings
from bridge.domain.run import RunStatus

GROWTH = 0.1  # poll again after a tenth of the age in this status: lateness stays about 5 % of the duration
FIRST_S = 1.0
WAITING_MIN_S = 30.0
FAILURE_FIRST_S, FAILURE_GROWTH, FAILURE_MAX_S = 1.0, 2.0, 60.0


@dataclass(frozen=True, slots=True)
class NextPoll:
    """Seconds until the next poll, and why then, in words for `runs show`."""

    delay_s: float
    reason: str


def next_poll(
    settings: CadenceSettings,
    *,
    status: RunStatus,
    age_s: float,
    failure_streak: int = 0,
    poll_after_s: float | None = None,
    chance: random.Random | None = None,
) -> NextPoll:
    """When to poll a run that has been in `status` for `age_s` seconds.

    `failure_streak` counts polls in a row that brought nothing; `poll_after_s` is a wish of the
    provider and a lower bound. The result lies within min_interval and max_interval (a wish may exceed it).
    """
    if failure_streak:
        wanted = min(FAILURE_FIRST_S * FAILURE_GROWTH ** min(failure_streak - 1, 16), FAILURE_MAX_S)
        reason = f"after {failure_streak} failed polls in a row"
    else:
        wanted = max(FIRST_S, age_s * GROWTH)
        reason = f"a tenth of the {age_s:.0f} s spent {status.value}"
        if status is RunStatus.WAITING:
            wanted, reason = max(wanted, WAITING_MIN_S), "waiting for a person"
    delay_s = wanted * (chance or random).uniform(0.9, 1.1)
    delay_s = min(max(delay_s, settings.min_interval_s), settings.max_interval_s)
    if poll_after_s is not None and poll_after_s > delay_s:
        delay_s, reason = poll_after_s, "the provider asked for this pause"
    return NextPoll(delay_s, reason)
