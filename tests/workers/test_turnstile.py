"""The turnstile: seats, lanes, tokens and rests, without any database."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from bridge.domain.delivery import Lane
from bridge.domain.pace import Pace
from bridge.store.due import Due
from bridge.workers.turnstile import Share, Turnstile

NOW = datetime(2026, 1, 15, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def due(endpoint_id: str = "a", *lanes: Lane, when: datetime = LONG_AGO, **more) -> dict[str, Due]:
    return {
        endpoint_id: Due(endpoint_id, dict.fromkeys(lanes or (Lane.FRESH,), when), more.pop("pace", Pace()), **more)
    }


def share(
    turnstile: Turnstile, waiting: dict[str, Due], *, now: datetime = NOW, monotonic: float = 1000.0
) -> dict[str, Share]:
    return turnstile.share(waiting, now=now, monotonic=monotonic)


def limits(shares: dict[str, Share]) -> dict[str, int]:
    return {endpoint_id: one.limit for endpoint_id, one in shares.items()}


def take(turnstile: Turnstile, shares: dict[str, Share]) -> None:
    """Everything that was offered is claimed."""
    for endpoint_id, one in shares.items():
        for _ in range(one.limit):
            turnstile.enter(endpoint_id)


def test_one_endpoint_gets_its_own_seats_and_no_more() -> None:
    turnstile = Turnstile(64, 8)
    take(turnstile, first := share(turnstile, due()))
    assert limits(first) == {"a": 8}
    assert share(turnstile, due()) == {}
    assert turnstile.rest_s(due(), now=NOW) == math.inf, "a post that ends rings the bell"
    turnstile.leave("a")
    assert limits(share(turnstile, due())) == {"a": 1}


def test_what_is_due_later_is_remembered_although_every_seat_is_taken() -> None:
    """A post that arrives at a well endpoint tells of itself only where something waits for its seat."""
    turnstile = Turnstile(64, 1)
    take(turnstile, share(turnstile, due()))
    retry = due("a", Lane.AGAIN, when=at(3))
    assert share(turnstile, retry) == {}
    assert turnstile.rest_s(retry, now=NOW) == pytest.approx(3)
    assert turnstile.rest_s(retry, now=at(3)) == math.inf
    probed = due("a", Lane.AGAIN, when=at(3), pace=Pace(failures=1))
    assert turnstile.rest_s(probed, now=NOW) == pytest.approx(3)


def test_a_seat_that_is_left_during_a_look_is_given_away_only_after_it() -> None:
    """What was read may not know yet what the post that ended has brought: a pause, say."""
    turnstile = Turnstile(64, 1)
    take(turnstile, share(turnstile, due()))
    with turnstile.looking():
        turnstile.leave("a")
        assert share(turnstile, due()) == {}
    assert limits(share(turnstile, due())) == {"a": 1}


def test_few_seats_are_shared_in_turn() -> None:
    turnstile = Turnstile(4, 8)
    waiting = {**due("a"), **due("b"), **due("c"), **due("d"), **due("e"), **due("f")}
    first = share(turnstile, waiting)
    take(turnstile, first)
    for endpoint_id in first:
        turnstile.leave(endpoint_id)
    second = share(turnstile, waiting)
    assert set(first) | set(second) == set(waiting)


def test_the_last_quarter_of_the_seats_is_for_endpoints_that_have_none() -> None:
    """However many slow receivers there are, a quick one finds a seat."""
    turnstile = Turnstile(16, 8)
    slow = {**due("s1"), **due("s2"), **due("s3"), **due("s4")}
    for _ in range(10):
        take(turnstile, share(turnstile, slow))
    assert turnstile.free == 3, "four in reserve, one of them taken by s4, which had none"
    assert limits(share(turnstile, {**slow, **due("quick")})) == {"quick": 1}


def test_what_is_new_goes_first_and_one_in_four_is_a_retry() -> None:
    turnstile = Turnstile(64, 8)
    (one,) = share(turnstile, due("a", Lane.FRESH, Lane.AGAIN)).values()
    assert one.lanes == ((Lane.AGAIN, 2), (Lane.FRESH, 8), (Lane.AGAIN, 8))
    (one,) = share(turnstile, due("a", Lane.AGAIN)).values()
    assert one.lanes[0][0] is Lane.AGAIN


@pytest.mark.parametrize("seats", [1, 2, 3, 8])
def test_retries_keep_their_share_even_where_seats_become_free_one_by_one(seats: int) -> None:
    turnstile = Turnstile(64, seats)
    waiting = due("a", Lane.FRESH, Lane.AGAIN)
    given: Counter[Lane] = Counter()
    for _ in range(200):
        for endpoint_id, one in share(turnstile, waiting).items():
            left = one.limit
            for lane, most in one.lanes:
                given[lane] += min(left, most)
                left -= min(left, most)
            for _ in range(one.limit):
                turnstile.enter(endpoint_id)
        turnstile.leave("a")
    assert given[Lane.AGAIN] / given.total() == pytest.approx(0.25, abs=0.02)


def test_an_endpoint_that_rests_gets_nothing_until_then_and_then_one_at_a_time() -> None:
    turnstile = Turnstile(64, 8)
    resting = due(pace=Pace(failures=5, probe_at=at(30)))
    assert share(turnstile, resting) == {}
    assert turnstile.rest_s(resting, now=NOW) == 30
    take(turnstile, probe := share(turnstile, resting, now=at(30)))
    assert limits(probe) == {"a": 1}
    assert share(turnstile, resting, now=at(40)) == {}
    assert turnstile.rest_s(resting, now=at(40)) == math.inf


def test_an_endpoint_that_asked_for_a_pause_gets_nothing_until_then() -> None:
    turnstile = Turnstile(64, 8)
    paused = due(pace=Pace(slowdowns=1, paused_until=at(3600)))
    assert share(turnstile, paused) == {}
    assert turnstile.rest_s(paused, now=NOW) == 3600


def test_the_rest_is_until_the_first_thing_that_can_go() -> None:
    turnstile = Turnstile(64, 8)
    waiting = {
        **due("paused", pace=Pace(slowdowns=1, paused_until=at(90))),
        **due("later", when=at(60)),
        **due("much-later", when=at(600)),
    }
    assert share(turnstile, waiting) == {}
    assert turnstile.rest_s(waiting, now=NOW) == 60
    assert turnstile.rest_s({}, now=NOW) == math.inf


def test_what_a_person_asked_for_waits_for_no_rest_pause_or_token() -> None:
    turnstile = Turnstile(64, 8)
    for pace in (Pace(failures=9, probe_at=at(300)), Pace(slowdowns=1, paused_until=at(300))):
        (one,) = share(turnstile, due("a", Lane.AT_ONCE, Lane.FRESH, pace=pace)).values()
        assert one.lanes == ((Lane.AT_ONCE, 8),), "and only that"
    limited = due("b", Lane.AT_ONCE, Lane.FRESH, rate_limit=0.001)
    take(turnstile, share(turnstile, limited))
    (one,) = share(turnstile, limited).values()
    assert one.lanes == ((Lane.AT_ONCE, 7),)


def test_a_rate_limit_lets_so_many_go_each_second() -> None:
    turnstile = Turnstile(64, 64)
    limited = due(rate_limit=5.0)
    sent = 0
    for tenth in range(100):
        for endpoint_id, one in share(turnstile, limited, monotonic=1000 + tenth / 10).items():
            sent += one.limit
            for _ in range(one.limit):
                turnstile.enter(endpoint_id)
                turnstile.leave(endpoint_id)
    assert 5 + 49 <= sent <= 5 + 50, "a second's worth at once, then five a second for 9.9 s"


def test_waiting_for_a_token_is_a_rest_of_known_length() -> None:
    turnstile = Turnstile(64, 8)
    limited = due(rate_limit=0.1)
    take(turnstile, share(turnstile, limited))
    turnstile.leave("a")
    assert share(turnstile, limited, monotonic=1004.0) == {}
    assert turnstile.rest_s(limited, now=NOW) == pytest.approx(6.0)
    assert limits(share(turnstile, limited, monotonic=1010.0)) == {"a": 1}


def test_a_rate_limit_is_not_forgotten_while_nothing_waits() -> None:
    """Else an event every three seconds would each find a full bucket."""
    turnstile = Turnstile(64, 8)
    limited = due(rate_limit=0.1)
    take(turnstile, share(turnstile, limited))
    turnstile.leave("a")
    share(turnstile, {}, monotonic=1003.0)
    assert share(turnstile, limited, monotonic=1003.0) == {}


def test_endpoints_that_are_done_are_forgotten() -> None:
    turnstile = Turnstile(64, 8)
    for number in range(50):
        take(turnstile, share(turnstile, due(f"run-{number}")))
        for _ in range(8):
            turnstile.leave(f"run-{number}")
    share(turnstile, {})
    assert turnstile._gates == {}
