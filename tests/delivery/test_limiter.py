"""The delivery limiter: slots, lanes, tokens and rests, without a database."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from bridge.delivery.limiter import DeliveryLimiter, DeliverySlots, Share
from bridge.domain.delivery import Lane
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.store.deliveries import DueEndpoint

NOW = datetime(2026, 1, 15, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def due(endpoint_id: str = "a", *lanes: Lane, when: datetime = LONG_AGO, **more) -> dict[str, DueEndpoint]:
    return {
        endpoint_id: DueEndpoint(
            endpoint_id, dict.fromkeys(lanes or (Lane.FRESH,), when), more.pop("backoff", EndpointBackoff()), **more
        )
    }


class Limiter(DeliveryLimiter):
    """With the slots that its deliverer would hold; what is taken gets a slot at once."""

    def __init__(self, slots: int, slots_per_endpoint: int) -> None:
        super().__init__(slots, slots_per_endpoint)
        self.held: DeliverySlots[str] = DeliverySlots(slots, slots_per_endpoint)

    def start(self, endpoint_id: str) -> None:
        self.take(endpoint_id)
        self.held.add(endpoint_id, endpoint_id)
        assert self.held.start_next() == endpoint_id

    def release(self, endpoint_id: str) -> None:
        self.held.release(endpoint_id)


def share(
    limiter: Limiter, waiting: dict[str, DueEndpoint], *, now: datetime = NOW, monotonic: float = 1000.0
) -> dict[str, Share]:
    return limiter.share(waiting, limiter.held.held(), now=now, monotonic=monotonic)


def limits(shares: dict[str, Share]) -> dict[str, int]:
    return {endpoint_id: one.limit for endpoint_id, one in shares.items()}


def take(limiter: Limiter, shares: dict[str, Share]) -> None:
    """Everything that was offered is claimed."""
    for endpoint_id, one in shares.items():
        for _ in range(one.limit):
            limiter.start(endpoint_id)


def test_one_endpoint_gets_its_own_slots_and_no_more() -> None:
    limiter = Limiter(64, 8)
    take(limiter, first := share(limiter, due()))
    assert limits(first) == {"a": 8}
    assert share(limiter, due()) == {}
    assert limiter.rest_s(due(), now=NOW) == math.inf, "a post that ends rings the bell"
    limiter.release("a")
    assert limits(share(limiter, due())) == {"a": 1}


def test_what_is_due_later_is_remembered_although_every_slot_is_taken() -> None:
    """A delivered POST rings the bell only if something waits for its slot."""
    limiter = Limiter(64, 1)
    take(limiter, share(limiter, due()))
    retry = due("a", Lane.AGAIN, when=at(3))
    assert share(limiter, retry) == {}
    assert limiter.rest_s(retry, now=NOW) == pytest.approx(3)
    assert limiter.rest_s(retry, now=at(3)) == math.inf
    probed = due("a", Lane.AGAIN, when=at(3), backoff=EndpointBackoff(failures=1))
    assert limiter.rest_s(probed, now=NOW) == pytest.approx(3)


def test_few_slots_are_shared_in_turn() -> None:
    limiter = Limiter(4, 8)
    waiting = {**due("a"), **due("b"), **due("c"), **due("d"), **due("e"), **due("f")}
    first = share(limiter, waiting)
    take(limiter, first)
    for endpoint_id in first:
        limiter.release(endpoint_id)
    second = share(limiter, waiting)
    assert set(first) | set(second) == set(waiting)


def test_the_last_quarter_of_the_slots_is_for_endpoints_that_have_none() -> None:
    """However many slow receivers there are, a quick one finds a slot."""
    limiter = Limiter(16, 8)
    slow = {**due("s1"), **due("s2"), **due("s3"), **due("s4")}
    for _ in range(10):
        take(limiter, share(limiter, slow))
    assert limiter.slots - limiter.held.busy == 3, "four in reserve, one of them taken by s4, which had none"
    assert limits(share(limiter, {**slow, **due("quick")})) == {"quick": 1}


def test_what_is_new_goes_first_and_one_in_four_is_a_retry() -> None:
    limiter = Limiter(64, 8)
    (one,) = share(limiter, due("a", Lane.FRESH, Lane.AGAIN)).values()
    assert one.lanes == ((Lane.AGAIN, 2), (Lane.FRESH, 8), (Lane.AGAIN, 8))
    (one,) = share(limiter, due("a", Lane.AGAIN)).values()
    assert one.lanes[0][0] is Lane.AGAIN


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_retries_keep_their_share_even_where_slots_become_free_one_by_one(slots: int) -> None:
    limiter = Limiter(64, slots)
    waiting = due("a", Lane.FRESH, Lane.AGAIN)
    given: Counter[Lane] = Counter()
    for _ in range(200):
        for endpoint_id, one in share(limiter, waiting).items():
            left = one.limit
            for lane, most in one.lanes:
                given[lane] += min(left, most)
                left -= min(left, most)
            for _ in range(one.limit):
                limiter.start(endpoint_id)
        limiter.release("a")
    assert given[Lane.AGAIN] / given.total() == pytest.approx(0.25, abs=0.02)


def test_an_endpoint_that_rests_gets_nothing_until_then_and_then_one_at_a_time() -> None:
    limiter = Limiter(64, 8)
    resting = due(backoff=EndpointBackoff(failures=5, probe_at=at(30)))
    assert share(limiter, resting) == {}
    assert limiter.rest_s(resting, now=NOW) == 30
    take(limiter, probe := share(limiter, resting, now=at(30)))
    assert limits(probe) == {"a": 1}
    assert share(limiter, resting, now=at(40)) == {}
    assert limiter.rest_s(resting, now=at(40)) == math.inf


def test_an_endpoint_that_asked_for_a_pause_gets_nothing_until_then() -> None:
    limiter = Limiter(64, 8)
    paused = due(backoff=EndpointBackoff(slowdowns=1, paused_until=at(3600)))
    assert share(limiter, paused) == {}
    assert limiter.rest_s(paused, now=NOW) == 3600


def test_the_rest_is_until_the_first_thing_that_can_go() -> None:
    limiter = Limiter(64, 8)
    waiting = {
        **due("paused", backoff=EndpointBackoff(slowdowns=1, paused_until=at(90))),
        **due("later", when=at(60)),
        **due("much-later", when=at(600)),
    }
    assert share(limiter, waiting) == {}
    assert limiter.rest_s(waiting, now=NOW) == 60
    assert limiter.rest_s({}, now=NOW) == math.inf


def test_what_a_person_asked_for_waits_for_no_rest_pause_or_token() -> None:
    limiter = Limiter(64, 8)
    for backoff in (EndpointBackoff(failures=9, probe_at=at(300)), EndpointBackoff(slowdowns=1, paused_until=at(300))):
        (one,) = share(limiter, due("a", Lane.AT_ONCE, Lane.FRESH, backoff=backoff)).values()
        assert one.lanes == ((Lane.AT_ONCE, 8),), "and only that"
    limited = due("b", Lane.AT_ONCE, Lane.FRESH, rate_limit=0.001)
    take(limiter, share(limiter, limited))
    (one,) = share(limiter, limited).values()
    assert one.lanes == ((Lane.AT_ONCE, 7),)


def test_a_rate_limit_lets_so_many_go_each_second() -> None:
    limiter = Limiter(64, 64)
    limited = due(rate_limit=5.0)
    sent = 0
    for tenth in range(100):
        for endpoint_id, one in share(limiter, limited, monotonic=1000 + tenth / 10).items():
            sent += one.limit
            for _ in range(one.limit):
                limiter.start(endpoint_id)
                limiter.release(endpoint_id)
    assert 5 + 49 <= sent <= 5 + 50, "a second's worth at once, then five a second for 9.9 s"


def test_waiting_for_a_token_is_a_rest_of_known_length() -> None:
    limiter = Limiter(64, 8)
    limited = due(rate_limit=0.1)
    take(limiter, share(limiter, limited))
    limiter.release("a")
    assert share(limiter, limited, monotonic=1004.0) == {}
    assert limiter.rest_s(limited, now=NOW) == pytest.approx(6.0)
    assert limits(share(limiter, limited, monotonic=1010.0)) == {"a": 1}


def test_a_rate_limit_is_not_forgotten_while_nothing_waits() -> None:
    """Otherwise an event every three seconds would each find a full bucket."""
    limiter = Limiter(64, 8)
    limited = due(rate_limit=0.1)
    take(limiter, share(limiter, limited))
    limiter.release("a")
    share(limiter, {}, monotonic=1003.0)
    assert share(limiter, limited, monotonic=1003.0) == {}


def test_endpoints_that_are_done_are_forgotten() -> None:
    """Each run may bring an endpoint of its own; thousands a day must not add up in memory."""
    limiter = Limiter(64, 1)
    waiting = due("a", Lane.FRESH, Lane.AGAIN)
    for _ in range(3):
        take(limiter, share(limiter, waiting))
        limiter.release("a")
    assert share(limiter, waiting)["a"].lanes[0][0] is Lane.AGAIN, "the fourth is a retry"
    share(limiter, {})
    assert share(limiter, waiting)["a"].lanes[0][0] is Lane.FRESH, "counting begins again"
