"""Clocks: aware instants, and a monotonic time that never goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.clock import SteadyClock, SystemClock
from tests.support.manual_clock import ManualClock

NOW = datetime(2026, 1, 15, tzinfo=UTC)


def test_the_machines_instant_is_aware_utc() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)


def test_the_machines_monotonic_time_never_goes_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


@given(st.lists(st.floats(0, 1e6), max_size=10))
def test_a_manual_clock_moves_both_times_by_what_it_is_advanced_and_by_nothing_else(steps_s: list[float]) -> None:
    clock = ManualClock(NOW)
    begun, expected = clock.monotonic(), NOW
    for step_s in steps_s:
        clock.advance(step_s)
        expected += timedelta(seconds=step_s)
        assert clock.now() == clock.now() == expected
    assert abs(clock.monotonic() - begun - sum(steps_s)) < 1e-6


@given(st.floats(-1e7, 1e9), st.floats(0, 1e6))
def test_a_steady_clock_goes_on_evenly_when_the_machines_is_set_until_it_is_shifted(
    jump_s: float, pass_s: float
) -> None:
    machine = ManualClock(NOW)
    clock = SteadyClock(machine)
    machine.set_wall(jump_s)
    machine.advance(pass_s)
    assert abs((clock.now() - NOW).total_seconds() - pass_s) < 1e-5
    assert abs(clock.lag_s() - jump_s) < 1e-5
    clock.shift(clock.lag_s())
    assert abs((clock.now() - machine.now()).total_seconds()) < 1e-5
