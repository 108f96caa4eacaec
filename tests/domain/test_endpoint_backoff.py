"""The pace of an endpoint: rests, pauses, probes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.delivery import Outcome, PostResult
from bridge.domain.endpoint_backoff import EndpointBackoff, backoff_after

NOW = datetime(2026, 1, 15, tzinfo=UTC)
DEAD = [Outcome.TIMEOUT, Outcome.CONNECT, Outcome.TLS, Outcome.DNS, Outcome.SERVER_ERROR]


def answer(outcome: Outcome, status: int | None = None, retry_after_s: float | None = None) -> PostResult:
    return PostResult(outcome, duration_ms=1, status=status, retry_after_s=retry_after_s)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def fail(
    backoff: EndpointBackoff, times: int, *, outcome: Outcome = Outcome.TIMEOUT, now: datetime = NOW
) -> EndpointBackoff:
    for _ in range(times):
        backoff = backoff_after(backoff, answer(outcome), now=now)
    return backoff


@pytest.mark.parametrize("outcome", DEAD)
def test_five_failures_in_a_row_put_it_to_rest(outcome: Outcome) -> None:
    assert not fail(EndpointBackoff(), 4, outcome=outcome).is_probed
    assert fail(EndpointBackoff(), 4, outcome=outcome).opens_at is None
    broken = fail(EndpointBackoff(), 5, outcome=outcome)
    assert (broken.is_probed, broken.opens_at) == (True, later(5))


def test_each_failed_probe_doubles_the_rest_up_to_five_minutes() -> None:
    backoff, rests, now = fail(EndpointBackoff(), 4), [], NOW
    for _ in range(9):
        backoff = fail(backoff, 1, now=now)
        assert backoff.probe_at is not None
        rests.append((backoff.probe_at - now).total_seconds())
        now = backoff.probe_at
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_answers_that_were_under_way_when_it_went_to_rest_lengthen_nothing() -> None:
    """Eight posts at once time out at once: that is one failure of the receiver, not eight."""
    assert fail(EndpointBackoff(), 12) == fail(EndpointBackoff(), 5)


def test_the_first_success_opens_it_fully() -> None:
    assert backoff_after(fail(EndpointBackoff(), 7), answer(Outcome.DELIVERED, 204), now=NOW) == EndpointBackoff()


@pytest.mark.parametrize("status", [400, 401, 404, 410, 302])
def test_an_answer_that_shows_that_somebody_is_there_ends_the_row_of_failures(status: int) -> None:
    outcome = {410: Outcome.GONE, 302: Outcome.REDIRECT}.get(status, Outcome.CLIENT_ERROR)
    assert backoff_after(fail(EndpointBackoff(), 5), answer(outcome, status), now=NOW) == EndpointBackoff()


@pytest.mark.parametrize("outcome", [Outcome.BLOCKED_ADDRESS, Outcome.PROTOCOL, Outcome.OVERSIZE])
def test_what_says_nothing_about_the_receiver_changes_nothing(outcome: Outcome) -> None:
    assert fail(EndpointBackoff(), 9, outcome=outcome) == EndpointBackoff()


@pytest.mark.parametrize(("status", "outcome"), [(429, Outcome.THROTTLED), (503, Outcome.SERVER_ERROR)])
def test_retry_after_pauses_the_endpoint_and_then_it_is_probed(status: int, outcome: Outcome) -> None:
    backoff = backoff_after(EndpointBackoff(), answer(outcome, status, 90.0), now=NOW)
    assert (backoff.opens_at, backoff.is_probed) == (later(90), True)


def test_a_503_without_retry_after_is_a_failure_but_no_request_to_wait() -> None:
    assert backoff_after(EndpointBackoff(), answer(Outcome.SERVER_ERROR, 503), now=NOW) == EndpointBackoff(failures=1)


@pytest.mark.parametrize("status", [429, 502, 504])
def test_without_retry_after_the_pause_grows_from_a_second_to_five_minutes(status: int) -> None:
    outcome = Outcome.THROTTLED if status == 429 else Outcome.SERVER_ERROR
    backoff, pauses, now = EndpointBackoff(), [], NOW
    for _ in range(11):
        backoff = backoff_after(backoff, answer(outcome, status), now=now)
        assert backoff.paused_until is not None
        pauses.append((backoff.paused_until - now).total_seconds())
        now = backoff.opens_at or now
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_wish_shorter_than_our_own_pause_never_shortens_it() -> None:
    twice = backoff_after(EndpointBackoff(slowdowns=5), answer(Outcome.THROTTLED, 429, 1.0), now=NOW)
    assert twice.paused_until == later(32)


def test_a_pause_is_at_most_a_day() -> None:
    backoff = backoff_after(EndpointBackoff(), answer(Outcome.THROTTLED, 429, 1e9), now=NOW)
    assert backoff.paused_until == later(86400)


def test_a_success_that_was_under_way_does_not_lift_a_pause_that_was_asked_for() -> None:
    paused = backoff_after(EndpointBackoff(), answer(Outcome.THROTTLED, 429, 60.0), now=NOW)
    after = backoff_after(paused, answer(Outcome.DELIVERED, 204), now=later(1))
    assert after == EndpointBackoff(paused_until=later(60))
    assert backoff_after(after, answer(Outcome.DELIVERED, 204), now=later(61)) == EndpointBackoff()


def test_throttling_ends_a_row_of_failures() -> None:
    backoff = backoff_after(fail(EndpointBackoff(), 6), answer(Outcome.THROTTLED, 429), now=NOW)
    assert (backoff.failures, backoff.probe_at) == (0, None)


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
    backoff, now = EndpointBackoff(), NOW
    for outcome, status, retry_after_s, passed_s in story:
        now += timedelta(seconds=passed_s)
        backoff = backoff_after(backoff, answer(outcome, status, retry_after_s), now=now)
        assert backoff.opens_at is None or (backoff.opens_at - now).total_seconds() <= 86400
    opened = backoff_after(backoff, answer(Outcome.DELIVERED, 204), now=backoff.opens_at or now)
    assert opened == EndpointBackoff()
