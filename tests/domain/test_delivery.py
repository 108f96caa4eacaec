"""The state after one attempt: delivered, again later, or given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.delivery import DeliveryState, Lane, Outcome, PostResult, RetrySchedule, state_after

NOW = datetime(2026, 1, 15, tzinfo=UTC)
PLAIN = RetrySchedule((5, 300), jitter=0.0)
FAILURES = [outcome for outcome in Outcome if outcome is not Outcome.DELIVERED]


def judged(
    failures: int, outcome: Outcome, *, asked_s: float | None = None, gone: bool = False
) -> tuple[DeliveryState, float | None]:
    """The state, and seconds until it is tried again."""
    answer = PostResult(outcome, duration_ms=1, retry_after_s=asked_s)
    state, again_at = state_after(failures, answer, now=NOW, schedule=PLAIN, ends_when_gone=gone)
    return state, None if again_at is None else (again_at - NOW).total_seconds()


@pytest.mark.parametrize("failures", [0, 1, 2, 100])
def test_a_success_is_the_end_however_late(failures: int) -> None:
    assert judged(failures, Outcome.DELIVERED) == (DeliveryState.DELIVERED, None)


@pytest.mark.parametrize("outcome", FAILURES)
def test_any_failure_is_retried_until_the_schedule_is_used_up(outcome: Outcome) -> None:
    story = [judged(failures, outcome) for failures in range(4)]
    exhausted = (DeliveryState.EXHAUSTED, None)
    assert story == [(DeliveryState.PENDING, 5), (DeliveryState.PENDING, 300), exhausted, exhausted]


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_pause_delays_the_next_attempt_but_gives_no_further_one(outcome: Outcome) -> None:
    assert judged(0, outcome, asked_s=60) == (DeliveryState.PENDING, 60)
    assert judged(1, outcome, asked_s=60) == (DeliveryState.PENDING, 300)
    assert judged(2, outcome, asked_s=60) == (DeliveryState.EXHAUSTED, None)


@pytest.mark.parametrize("outcome", FAILURES)
def test_only_gone_ends_a_one_run_webhook_at_once(outcome: Outcome) -> None:
    expected = DeliveryState.EXHAUSTED if outcome is Outcome.GONE else DeliveryState.PENDING
    assert judged(0, outcome, gone=True)[0] is expected


@given(st.integers(0, 20), st.sampled_from(list(Outcome)), st.none() | st.floats(0, 1e9), st.booleans())
def test_a_delivery_has_a_next_attempt_exactly_while_it_is_pending(
    failures: int, outcome: Outcome, asked_s: float | None, gone: bool
) -> None:
    answer = PostResult(outcome, duration_ms=1, retry_after_s=asked_s)
    state, again_at = state_after(failures, answer, now=NOW, schedule=RetrySchedule(), ends_when_gone=gone)
    assert (again_at is not None) is (state is DeliveryState.PENDING)
    assert again_at is None or NOW + timedelta(seconds=4) <= again_at <= NOW + timedelta(seconds=1.2 * 86400)
    assert state is not DeliveryState.DISCARDED


def test_requested_deliveries_go_first_then_new_ones() -> None:
    assert sorted([Lane.AGAIN, Lane.FRESH, Lane.AT_ONCE]) == [Lane.AT_ONCE, Lane.FRESH, Lane.AGAIN]
