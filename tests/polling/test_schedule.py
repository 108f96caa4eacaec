"""The schedule: runs are taken in the order of their due times, and what was removed leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bridge.domain.connection import Connection
from bridge.domain.limits.fair_limiter import FairRateLimiter
from bridge.domain.secret import Secret
from bridge.polling.schedule import STALE_MAX, PollSchedule, TrackedRun
from tests.support.manual_clock import ManualClock
from tests.support.sample_run import REGISTERED_AT, sample_run


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 15, tzinfo=UTC))


@pytest.fixture
def schedule(clock: ManualClock) -> PollSchedule:
    connection = Connection(name="hub", provider="dibby", base_url="http://127.0.0.1:1", api_key=Secret("key"))
    return PollSchedule(connection, FairRateLimiter(), clock)


def tracked(number: int, due: float) -> TrackedRun:
    run = replace(sample_run(), id=f"run_{number}", provider_run_id=f"r{number}")
    return TrackedRun(run, due, now=REGISTERED_AT, monotonic=0.0)


def test_what_was_removed_leaves_nothing_behind_and_the_order_stays(schedule: PollSchedule) -> None:
    """After a storm the due times of what is gone would stay in memory for as long as they lie ahead."""
    count = 3 * STALE_MAX
    for number in range(count):
        schedule.add(tracked(number, due=float(count - number)))
    for number in range(count):
        if number % 100:
            schedule.remove(f"run_{number}")
    again = schedule.get("run_200")
    assert again is not None
    schedule.postpone(again, 0.5)
    assert schedule.order_size <= 2 * len(schedule) + STALE_MAX
    taken = schedule.take_due(float(count), count)
    assert [each.due for each in taken] == sorted(each.due for each in taken)
    assert taken[0] is again
    assert len(taken) == len(schedule) == count // 100


def test_runs_that_are_planned_again_and_again_leave_nothing_behind(schedule: PollSchedule) -> None:
    """Each list plans every run that it shows, long before the due times that it had."""
    for number in range(10):
        schedule.add(tracked(number, due=300.0))
    for again in range(STALE_MAX):
        for each in schedule.all():
            schedule.postpone(each, 300.0 + again)
    assert schedule.order_size <= 2 * len(schedule) + STALE_MAX


def test_a_run_in_flight_is_in_no_order_until_it_is_planned_again(schedule: PollSchedule, clock: ManualClock) -> None:
    run = tracked(1, due=clock.monotonic())
    schedule.add(run)
    ready = schedule.take_to_rank(clock.monotonic())
    assert ready == [run]
    schedule.set_ready([(1.0, run)], clock.monotonic())
    assert schedule.take_ready(clock.monotonic()) is run
    assert schedule.next_due() == float("inf")
    schedule.plan(run, 5.0, "a reason", clock.now())
    assert schedule.next_due() == clock.monotonic() + 5.0
    assert run.next_poll_at == clock.now().replace(second=5)


def test_a_removed_run_is_not_taken_although_it_is_ready(schedule: PollSchedule, clock: ManualClock) -> None:
    now = clock.monotonic()
    first, second = tracked(1, due=now), tracked(2, due=now)
    schedule.add(first)
    schedule.add(second)
    due = schedule.take_to_rank(now)
    assert due is not None
    schedule.set_ready([(1.0, second), (2.0, first)], now)
    schedule.remove("run_1")
    assert schedule.take_ready(now) is second
