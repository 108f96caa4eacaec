"""One request for many runs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.cadence.estimate import Estimate, log_logistic
from bridge.domain.cadence.list_rule import UnregisteredRuns, WatchedRun, wait_before_list, worth_of_pages

MINUTE = Estimate(log_logistic(60.0, 0.4))


def watched(count: int, alive_s: float = 40.0) -> list[WatchedRun]:
    return [WatchedRun(MINUTE, alive_s, alive_s) for _ in range(count)]


@given(count=st.integers(0, 8), price=st.floats(0.01, 100), since=st.floats(0, 400))
@settings(deadline=None)
def test_the_list_keeps_within_the_two_intervals(count: int, price: float, since: float) -> None:
    wait = wait_before_list([watched(count)], price, 0.25, 300.0, since_s=since)
    assert max(0.25 - since, 0) <= wait <= max(300.0 - since, 0.25 - since, 0) + 1e-9


def test_it_is_sent_when_all_lateness_together_reaches_the_price() -> None:
    runs = watched(10)
    wait = wait_before_list([runs], 2.0, 0.25, 300.0, since_s=0.0)
    assert 2.0 <= sum(run.lateness(wait) for run in runs) <= 2.0 * 1.1


def test_more_runs_make_it_sooner() -> None:
    waits = [wait_before_list([watched(count)], 2.0, 0.25, 300.0, since_s=0.0) for count in (1, 4, 16, 64)]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 4 * waits[-1]


def test_as_many_pages_are_read_as_are_worth_it() -> None:
    pages = [watched(2), watched(30), watched(1)]
    wait = wait_before_list(pages, 2.0, 0.25, 300.0, since_s=0.0)
    assert wait < wait_before_list(pages[:1], 2.0, 0.25, 300.0, since_s=0.0)
    assert 4.0 <= sum(run.lateness(wait) for page in pages[:2] for run in page) <= 4.0 * 1.1


def test_a_page_that_is_reached_through_idle_ones_is_worth_all_their_requests() -> None:
    few, many = [[], [], watched(5)], [watched(5)]
    assert worth_of_pages(few, 10.0) == pytest.approx(worth_of_pages(many, 10.0) / 3)
    assert worth_of_pages([]) == 0


def test_without_runs_only_discovery_asks() -> None:
    assert wait_before_list([], 0.5, 0.25, 300.0, since_s=100.0) == 200.0


def test_runs_that_were_not_registered_gather_lateness_from_their_own_beginnings() -> None:
    """As many small ones that begin one after another."""
    per_s, gone_s, steps = 0.2, 90.0, 400
    each = [MINUTE.lateness(0.0, gone_s * (n + 0.5) / steps) for n in range(steps)]
    expected = per_s * gone_s * sum(each) / steps
    assert UnregisteredRuns(MINUTE, per_s, 30.0).lateness(60.0) == pytest.approx(expected, rel=0.1)


def test_where_more_begins_the_list_is_asked_for_sooner() -> None:
    waits = [
        wait_before_list([[UnregisteredRuns(MINUTE, per_s, 0.0)]], 0.5, 0.25, 300.0, since_s=0.0)
        for per_s in (0.001, 0.01, 0.1)
    ]
    assert waits[0] > 1.5 * waits[1] > 2 * waits[2]
