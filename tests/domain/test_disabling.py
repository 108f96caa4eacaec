"""The rule that switches an endpoint off: one test for each half of the sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bridge.domain.disabling import Failing, Step, describe, failing_after, next_step

START = datetime(2026, 1, 15, tzinfo=UTC)


def step(attempts: int, *, days: float, is_warned: bool = False) -> Step:
    failing = Failing(START, attempts, START if is_warned else None)
    return next_step(failing, now=START + timedelta(days=days))


@pytest.mark.parametrize(
    ("attempts", "days", "expected"),
    [
        (10, 5.0, Step.DISABLE),
        (10_000, 5.0, Step.DISABLE),
        (10, 40.0, Step.DISABLE),
        (9, 40.0, Step.WARN),
        (10, 4.999, Step.WARN),
        (10_000, 0.4, Step.NOTHING),
        (5, 2.5, Step.WARN),
        (4, 2.5, Step.NOTHING),
        (1000, 2.499, Step.NOTHING),
        (1, 0.0, Step.NOTHING),
    ],
)
def test_five_days_and_ten_attempts_disable_and_half_of_both_warns(attempts: int, days: float, expected: Step) -> None:
    assert step(attempts, days=days) is expected


def test_the_warning_is_given_once() -> None:
    assert step(7, days=3, is_warned=True) is Step.NOTHING
    assert step(10, days=5, is_warned=True) is Step.DISABLE


def test_the_row_begins_with_the_first_failure_and_keeps_its_beginning() -> None:
    failing = failing_after(None, at=START)
    for hour in range(1, 4):
        failing = failing_after(failing, at=START + timedelta(hours=hour))
    assert failing == Failing(START, 4)


def test_the_reason_says_how_many_and_since_when() -> None:
    assert describe(Failing(START, 12)) == "all 12 attempts since 2026-01-15T00:00:00.000Z failed"
