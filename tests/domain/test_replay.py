"""The pace of a replay: small batches, a rest between them, and a clock that may be set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.replay import RATE_MAX, RATE_MIN, Replay, ReplayState, Selection, rest_s

NOW = datetime(2026, 1, 15, tzinfo=UTC)


def at_rate(rate: float) -> Replay:
    return Replay("rpl_1", "ep_1", Selection(NOW), rate, ReplayState.RUNNING, 10, 0, 0, NOW, NOW)


@pytest.mark.parametrize(("rate", "batch"), [(0.1, 1), (1, 1), (1.9, 1), (50, 50), (100, 100), (1000, 100)])
def test_a_batch_is_a_seconds_worth_between_one_and_a_hundred(rate: float, batch: int) -> None:
    assert at_rate(rate).batch_max == batch


@given(st.floats(RATE_MIN, RATE_MAX))
def test_the_rest_that_a_full_batch_asks_for_is_always_kept(rate: float) -> None:
    replay = at_rate(rate)
    wanted_s = replay.batch_max / rate
    assert rest_s(NOW + timedelta(seconds=wanted_s), NOW) == pytest.approx(wanted_s, abs=1e-5)


@given(st.timedeltas(timedelta(days=-3650), timedelta(0)))
def test_a_batch_that_is_due_does_not_rest(ago: timedelta) -> None:
    assert rest_s(NOW + ago, NOW) == 0


@given(st.timedeltas(timedelta(seconds=1 / RATE_MIN + 0.001), timedelta(days=3650)))
def test_an_instant_beyond_any_rest_means_that_the_clock_was_set_back(ahead: timedelta) -> None:
    """Otherwise a clock that is put right by an hour would stop every replay for an hour."""
    assert rest_s(NOW + ahead, NOW) == 0
