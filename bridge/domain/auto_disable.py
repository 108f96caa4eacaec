"""When an endpoint is disabled automatically.

The rule: every attempt of the last 5 days failed, there were at least 10 of them, and at least 12 hours lie between
the first and the last. A success resets the streak, so sporadic failures never disable. At half the time the other
endpoints are warned, once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from bridge.domain.timestamps import format_instant

FAILING_FOR: Final = timedelta(days=5)
ATTEMPTS_MIN: Final = 10
SPAN_MIN: Final = timedelta(hours=12)
RULE: Final = "all attempts failed for 5 days, at least 10 of them, the first and the last at least 12 hours apart"


class AutoDisableStep(StrEnum):
    """The step that the rule requires now."""

    NOTHING = "nothing"
    WARN = "warn"
    DISABLE = "disable"


@dataclass(frozen=True, slots=True)
class FailureStreak:
    """Failed attempts without a success between them: the first at `since`, `attempts` of them so far."""

    since: datetime
    attempts: int
    warned_at: datetime | None = None


def failing_after(failing: FailureStreak | None, *, at: datetime) -> FailureStreak:
    """The streak after one more failed attempt, `at`."""
    return FailureStreak(at, 1) if failing is None else replace(failing, attempts=failing.attempts + 1)


def next_step(failing: FailureStreak, *, now: datetime) -> AutoDisableStep:
    """The step that the rule requires for an endpoint whose last attempt failed `now`."""
    span = now - failing.since
    if span >= max(FAILING_FOR, SPAN_MIN) and failing.attempts >= ATTEMPTS_MIN:
        return AutoDisableStep.DISABLE
    is_half = span >= max(FAILING_FOR / 2, SPAN_MIN) and failing.attempts >= ATTEMPTS_MIN / 2
    return AutoDisableStep.WARN if is_half and failing.warned_at is None else AutoDisableStep.NOTHING


def describe(failing: FailureStreak) -> str:
    """The reason, for the operator and the other endpoints."""
    return f"all {failing.attempts} attempts since {format_instant(failing.since)} failed"
