"""The rule that switches an endpoint off: one test for each half of the sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bridge.domain.auto_disable import AutoDisableStep, FailureStreak, describe, failing_after, next_step

START = datetime(2026, 1, 15, tzinfo=UTC)


def step(attempts: int, *, days: float, is_warned: bool = False) -> AutoDisableStep:
    failing = FailureStreak(START, attempts, START if is_warned else None)
    return next_step(failing, now=START + timedelta(days=days))


@pytest.mark.parametrize(
    ("attempts", "days", "expected"),
    [
        (10, 5.0, AutoDisableStep.DISABLE),
        (10_000, 5.0, AutoDisableStep.DISABLE),
        (10, 40.0, AutoDisableStep.DISABLE),
        (9, 40.0, AutoDisableStep.WARN),
        (10, 4.999, AutoDisableStep.WARN),
        (10_000, 0.4, AutoDisableStep.NOTHING),
        (5, 2.5, AutoDisableStep.WARN),
        (4, 2.5, AutoDisableStep.NOTHING),
        (1000, 2.499, AutoDisableStep.NOTHING),
        (1, 0.0, AutoDisableStep.NOTHING),
    ],
)
def test_five_days_and_ten_attempts_disable_and_half_of_both_warns(
    attempts: int, days: float, expected: AutoDisableStep
) -> None:
    assert step(attempts, days=days) is expected


def test_the_warning_is_given_once() -> None:
    assert step(7, days=3, is_warned=True) is AutoDisableStep.NOTHING
    assert step(10, days=5, is_warned=True) is AutoDisableStep.DISABLE


def test_the_row_begins_with_the_first_failure_and_keeps_its_beginning() -> None:
    failing = failing_after(None, at=START)
    for hour in range(1, 4):
        failing = failing_after(failing, at=START + timedelta(hours=hour))
    assert failing == FailureStreak(START, 4)


def test_the_reason_says_how_many_and_since_when() -> None:
    assert describe(FailureStreak(START, 12)) == "all 12 attempts since 2026-01-15T00:00:00.000Z failed"
