"""The door of one credential: rate, in flight, pause, and who goes first."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.limits.adaptive import InFlightLimit, RateLimit
from bridge.domain.limits.fair_limiter import Candidate, FairRateLimiter


def drive(limit: RateLimit, allowed_per_s: float, seconds: float) -> tuple[int, int]:
    """Ask whenever `limit` allows it of a provider with a token bucket; requests and refusals."""
    now, requests, refused, tokens, filled_at = 0.0, 0, 0, allowed_per_s, 0.0
    while now < seconds:
        now = max(now, limit.opens_at)
        limit.take(now)
        requests += 1
        tokens, filled_at = min(tokens + (now - filled_at) * allowed_per_s, allowed_per_s), now
        if tokens >= 1:
            tokens -= 1
            limit.succeed(now, sent_at=now)
        else:
            refused += 1
            limit.refuse(now, sent_at=now, retry_after_s=1.0)
    return requests, refused


def test_an_unannounced_limit_is_found_with_few_refusals() -> None:
    for allowed in (1.0, 5.0, 40.0):
        requests, refused = drive(RateLimit(), allowed, 600)
        assert refused / requests < 0.02
        assert requests > 0.9 * 600 * allowed


@pytest.mark.parametrize("rate", [0.4, 1.0, 2.5, 5.0, 40.0])
def test_a_rate_that_is_set_holds_in_every_second_after_a_rest_too(rate: float) -> None:
    """Providers count per second: what was not used in the last one is no reason for more in this one."""
    limit, sent = RateLimit(rate), []
    for begin in (100.0, 110.0):  # twice it has rested, then there is plenty to ask
        now = begin
        while now < begin + 5:
            limit.take(now)
            sent.append(now)
            now = max(now, limit.opens_at)
    for at in sent:
        assert sum(at <= other < at + 0.999999 for other in sent) <= math.ceil(rate)
    assert len(sent) >= 2 * 5 * rate - 1
    assert len({round(at, 3) for at in sent if begin + 1 <= at}) >= 4 * rate - 1  # and after a burst one by one


def test_a_known_rate_is_kept_and_never_refused_by_a_provider_that_means_it() -> None:
    limit = RateLimit(5.0)
    requests, refused = drive(limit, 5.0, 100)
    assert refused == 0
    assert limit.rate == 5.0
    assert 490 <= requests <= 510


def test_a_burst_is_at_most_what_one_second_saves_up() -> None:
    limit = RateLimit(5.0)
    now, sent = 100.0, 0
    while limit.opens_at <= now:
        limit.take(now)
        sent += 1
    assert sent <= 6


def test_a_refusal_stops_everybody_for_as_long_as_the_provider_says() -> None:
    limiter = FairRateLimiter()
    limiter.send(10.0)
    limiter.refuse(10.1, sent_at=10.0, retry_after_s=30.0)
    assert limiter.opens_at() >= 40.1


def test_refusals_of_one_volley_lower_the_rate_once() -> None:
    """Eight requests that left together are one mistake; cutting eight times would stop a healthy account."""
    limit = RateLimit()
    for _ in range(8):
        limit.refuse(5.5, sent_at=5.0, retry_after_s=1.0)
    assert limit.rate == 8.0


def used(limit: RateLimit, seconds: float, refuses_above: float = math.inf) -> None:
    """Full use for so long: a request whenever one may leave, answered at once or refused."""
    now = 100.0
    while now < 100.0 + seconds:
        now = max(now, limit.opens_at)
        limit.take(now)
        if limit.rate > refuses_above:
            limit.refuse(now, sent_at=now, retry_after_s=1.0)
        else:
            limit.succeed(now, sent_at=now)


def test_a_rate_that_nobody_refuses_doubles_in_some_seconds() -> None:
    limit = RateLimit()
    used(limit, 6.0)
    assert 40 < limit.rate < 200


@pytest.mark.parametrize("refuses_above", [math.inf, 17.0])
def test_what_was_learned_outlives_a_restart(refuses_above: float) -> None:
    limit, again = RateLimit(), RateLimit()
    used(limit, 20.0, refuses_above)
    again.recall(limit.dump())
    assert again.rate == pytest.approx(limit.rate, abs=1e-3)
    for each in (limit, again):
        used(each, 3.0, refuses_above)
    assert again.rate == pytest.approx(limit.rate, rel=0.3)


def test_a_node_saves_the_whole_limit_however_small_its_share() -> None:
    """Otherwise each restart of one node of two halves what both know."""
    learned = '{"rate": 60.0, "refused": 70.0}'
    for _ in range(3):
        limit = RateLimit()
        limit.recall(learned)
        limit.take_share(1 / 2)
        assert limit.rate == pytest.approx(30.0)
        learned = limit.dump()
    assert json.loads(learned) == {"rate": 60.0, "refused": 70.0}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "{}",
        '{"rate":"x","refused":null}',
        '{"rate":1e9,"refused":null}',
        '{"rate":0.06,"refused":0.07}',
        '{"rate":NaN,"refused":1}',
    ],
)
def test_what_is_no_rate_is_not_recalled(text: str | None) -> None:
    limit = RateLimit()
    limit.recall(text)
    assert limit.rate == RateLimit().rate


def test_a_rate_that_is_set_is_not_recalled() -> None:
    limit = RateLimit(3.0)
    limit.recall(RateLimit().dump())
    assert limit.rate == 3.0


def test_an_unused_rate_does_not_grow() -> None:
    limit = RateLimit()
    for second in range(100, 1100, 10):
        limit.take(float(second))
        limit.succeed(float(second), sent_at=float(second))
    assert limit.rate == RateLimit().rate


def test_in_flight_follows_rate_times_latency() -> None:
    limit = InFlightLimit()
    for _ in range(64):
        limit.succeed(2.0)
    assert limit.limit(5.0) == 15
    for _ in range(64):
        limit.succeed(0.1)
    assert limit.limit(5.0) == 2


def test_a_timeout_halves_what_is_in_flight_and_answers_bring_it_back() -> None:
    limit = InFlightLimit()
    for _ in range(64):
        limit.succeed(2.0)
    limit.time_out(12)
    assert limit.limit(10.0) == 6
    for _ in range(600):
        limit.succeed(2.0)
    assert limit.limit(10.0) == 30


def test_a_known_number_in_flight_is_kept() -> None:
    limit = InFlightLimit(3)
    limit.time_out(3)
    limit.succeed(100.0)
    assert limit.limit(50.0) == 3


def test_a_full_gate_opens_with_the_next_answer() -> None:
    limiter = FairRateLimiter(known_rate=100.0, known_in_flight=1)
    limiter.send(1.0)
    assert limiter.opens_at() == math.inf
    limiter.answer(1.5, sent_at=1.0)
    assert limiter.opens_at() <= 1.5


def test_the_most_urgent_run_goes_first() -> None:
    candidates = [Candidate("a", 1.0, 0.5), Candidate("b", 3.0, 0.5), Candidate("c", 2.0, 0.5, weight=2.0)]
    chosen = FairRateLimiter().pick(candidates)
    assert chosen is not None
    assert chosen.key == "c"


def test_nothing_is_sent_that_is_not_worth_its_price() -> None:
    assert FairRateLimiter().pick([Candidate("a", 0.4, 0.5)]) is None


@given(st.lists(st.floats(10, 1e6), min_size=5, max_size=20))
def test_a_burst_of_one_tenant_leaves_the_others_their_floor(urgencies: list[float]) -> None:
    limiter = FairRateLimiter()
    loud = [Candidate(i, urgency, 0.5, tenant="loud") for i, urgency in enumerate(urgencies)]
    quiet = Candidate("q", 1.0, 0.5, tenant="quiet")
    picks = [limiter.pick([*loud, quiet]) for _ in range(100)]
    assert sum(pick is quiet for pick in picks) >= 9
    assert sum(pick is not None and pick.tenant == "loud" for pick in picks) >= 80


def test_the_shadow_price_shows_by_how_much_the_account_is_over_capacity() -> None:
    """Requests wanted fall with the square root of the price: four times the price is twice the capacity."""
    limiter = FairRateLimiter()
    for _ in range(200):
        limiter.pick([Candidate("a", 2.0, 0.5), Candidate("b", 2.0, 0.5)])
    assert math.isclose(limiter.over_capacity, 2.0, rel_tol=0.01)
    for _ in range(200):
        limiter.pick([Candidate("a", 0.5, 0.5)])
    assert math.isclose(limiter.over_capacity, 1.0, rel_tol=0.01)


def test_nobody_is_over_capacity_for_whom_nobody_had_to_wait_or_who_asks_no_more() -> None:
    limiter = FairRateLimiter()
    both = [Candidate("a", 2.0, 0.5), Candidate("b", 2.0, 0.5)]
    for _ in range(200):
        limiter.pick(both, now=1000.0, is_scarce=False)
    assert limiter.pressure(1000.0) == (0.5, 1.0)
    for _ in range(200):
        limiter.pick(both, now=1000.0)
    assert limiter.pressure(1000.0)[1] > 1.9
    assert limiter.pressure(1100.0)[1] < 1.01


def waiting(tenant: str, urgency_s: float = 1.0) -> Candidate:
    return Candidate(tenant, urgency_s, 0.5, tenant)


def test_who_was_turned_away_is_called_when_an_answer_comes_and_has_its_turn_after_the_others() -> None:
    limiter, called = FairRateLimiter(100.0, 1), list[str]()

    def stand(tenant: str) -> None:
        limiter.call_when_open(waiting(tenant), lambda: called.append(tenant))

    def answer() -> list[str]:
        called.clear()
        limiter.answer(0.1, sent_at=0.0)
        return called

    limiter.send(0.0, "one")
    stand("two")
    stand("one")
    assert answer() == ["two", "one"]
    limiter.send(0.2, "two")
    stand("two")
    assert answer() == ["one", "two"]
    limiter.send(0.3, "one")
    limiter.forget("two")
    assert answer() == []


def test_of_two_connections_of_one_credential_the_more_urgent_goes_first_and_the_other_keeps_its_floor() -> None:
    limiter, sent = FairRateLimiter(10.0), {"busy": 0, "calm": 0}
    for number in range(100):
        now = number / 10
        limiter.call_when_open(waiting("busy", 50.0), lambda: None)
        limiter.call_when_open(waiting("calm", 1.0), lambda: None)
        goes = next(
            name
            for name in ("calm", "busy", "calm")
            if limiter.admit([waiting(name, 50.0 if name == "busy" else 1.0)], now=now, is_scarce=True)
        )
        limiter.send(now, goes)
        sent[goes] += 1
    assert sent["busy"] > 2 * sent["calm"]
    assert sent["calm"] >= 15


def test_a_turn_that_is_not_taken_is_soon_over() -> None:
    limiter, called = FairRateLimiter(10.0), list[str]()
    limiter.call_when_open(waiting("gone", 50.0), lambda: called.append("gone"))
    assert not limiter.admit([waiting("here")], now=0.0, is_scarce=True)
    assert called == ["gone"]
    assert not limiter.admit([waiting("here")], now=0.5, is_scarce=True)
    assert limiter.admit([waiting("here")], now=1.1, is_scarce=True)
    assert limiter.admit([waiting("here")], now=1.2, is_scarce=True)
