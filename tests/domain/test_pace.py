"""The pace of an endpoint: rests, pauses, probes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.delivery import Answer, Outcome
from bridge.domain.pace import Pace, pace_after

NOW = datetime(2026, 1, 15, tzinfo=UTC)
DEAD = [Outcome.TIMEOUT, Outcome.CONNECT, Outcome.TLS, Outcome.DNS, Outcome.SERVER_ERROR]


def answer(outcome: Outcome, status: int | None = None, retry_after_s: float | None = None) -> Answer:
    return Answer(outcome, duration_ms=1, status=status, retry_after_s=retry_after_s)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def fail(pace: Pace, times: int, *, outcome: Outcome = Outcome.TIMEOUT, now: datetime = NOW) -> Pace:
    for _ in range(times):
        pace = pace_after(pace, answer(outcome), now=now)
    return pace


@pytest.mark.parametrize("outcome", DEAD)
def test_five_failures_in_a_row_put_it_to_rest(outcome: Outcome) -> None:
    assert not fail(Pace(), 4, outcome=outcome).is_probed
    assert fail(Pace(), 4, outcome=outcome).opens_at is None
    broken = fail(Pace(), 5, outcome=outcome)
    assert (broken.is_probed, broken.opens_at) == (True, later(5))


def test_each_failed_probe_doubles_the_rest_up_to_five_minutes() -> None:
    pace, rests, now = fail(Pace(), 4), [], NOW
    for _ in range(9):
        pace = fail(pace, 1, now=now)
        assert pace.probe_at is not None
        rests.append((pace.probe_at - now).total_seconds())
        now = pace.probe_at
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_answers_that_were_under_way_when_it_went_to_rest_lengthen_nothing() -> None:
    """Eight posts at once time out at once: that is one failure of the receiver, not eight."""
    assert fail(Pace(), 12) == fail(Pace(), 5)


def test_the_first_success_opens_it_fully() -> None:
    assert pace_after(fail(Pace(), 7), answer(Outcome.DELIVERED, 204), now=NOW) == Pace()


@pytest.mark.parametrize("status", [400, 401, 404, 410, 302])
def test_an_answer_that_shows_that_somebody_is_there_ends_the_row_of_failures(status: int) -> None:
    outcome = {410: Outcome.GONE, 302: Outcome.REDIRECT}.get(status, Outcome.CLIENT_ERROR)
    assert pace_after(fail(Pace(), 5), answer(outcome, status), now=NOW) == Pace()


@pytest.mark.parametrize("outcome", [Outcome.BLOCKED_ADDRESS, Outcome.PROTOCOL, Outcome.OVERSIZE])
def test_what_says_nothing_about_the_receiver_changes_nothing(outcome: Outcome) -> None:
    assert fail(Pace(), 9, outcome=outcome) == Pace()


@pytest.mark.parametrize(("status", "outcome"), [(429, Outcome.THROTTLED), (503, Outcome.SERVER_ERROR)])
def test_retry_after_pauses_the_endpoint_and_then_it_is_probed(status: int, outcome: Outcome) -> None:
    pace = pace_after(Pace(), answer(outcome, status, 90.0), now=NOW)
    assert (pace.opens_at, pace.is_probed) == (later(90), True)


def test_a_503_without_retry_after_is_a_failure_but_no_request_to_wait() -> None:
    assert pace_after(Pace(), answer(Outcome.SERVER_ERROR, 503), now=NOW) == Pace(failures=1)


@pytest.mark.parametrize("status", [429, 502, 504])
def test_without_retry_after_the_pause_grows_from_a_second_to_five_minutes(status: int) -> None:
    outcome = Outcome.THROTTLED if status == 429 else Outcome.SERVER_ERROR
    pace, pauses, now = Pace(), [], NOW
    for _ in range(11):
        pace = pace_after(pace, answer(outcome, status), now=now)
        assert pace.paused_until is not None
        pauses.append((pace.paused_until - now).total_seconds())
        now = pace.opens_at or now
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_wish_shorter_than_our_own_pause_never_shortens_it() -> None:
    twice = pace_after(Pace(slowdowns=5), answer(Outcome.THROTTLED, 429, 1.0), now=NOW)
    assert twice.paused_until == later(32)


def test_a_pause_is_at_most_a_day() -> None:
    pace = pace_after(Pace(), answer(Outcome.THROTTLED, 429, 1e9), now=NOW)
    assert pace.paused_until == later(86400)


def test_a_success_that_was_under_way_does_not_lift_a_pause_that_was_asked_for() -> None:
    paused = pace_after(Pace(), answer(Outcome.THROTTLED, 429, 60.0), now=NOW)
    after = pace_after(paused, answer(Outcome.DELIVERED, 204), now=later(1))
    assert after == Pace(paused_until=later(60))
    assert pace_after(after, answer(Outcome.DELIVERED, 204), now=later(61)) == Pace()


def test_throttling_ends_a_row_of_failures() -> None:
    pace = pace_after(fail(Pace(), 6), answer(Outcome.THROTTLED, 429), now=NOW)
    assert (pace.failures, pace.probe_at) == (0, None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([o for o in Outcome if o not in (Outcome.INTERRUPTED, Outcome.UNSIGNED)]),
            st.sampled_from([200, 302, 400, 410, 429, 500, 502, 503, 504, None]),
            st.none() | st.floats(0, 1e7),
            st.floats(0, 3600),
        ),
        max_size=40,
    )
)
def test_whatever_comes_it_never_waits_longer_than_a_day_and_one_success_ends_it(story) -> None:
    pace, now = Pace(), NOW
    for outcome, status, retry_after_s, passed_s in story:
        now += timedelta(seconds=passed_s)
        pace = pace_after(pace, answer(outcome, status, retry_after_s), now=now)
        assert pace.opens_at is None or (pace.opens_at - now).total_seconds() <= 86400
    opened = pace_after(pace, answer(Outcome.DELIVERED, 204), now=pace.opens_at or now)
    assert opened == Pace()
