"""A learned rate: found with few refusals, and back within seconds after an outage that answered 429 to everything."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bridge.domain.limits.adaptive import RATE_FIRST, RateLimit

LATENCY_S = 0.05
GROWS = (
    "learned; the provider refused (429) 10 requests per second, 3 s ago; "
    "it grows while all of it is used, slowly near that rate"
)
OUTAGE_AT = 100.0


@dataclass(frozen=True)
class Answered:
    """One request: when it was answered, whether it was accepted, and the rate after it."""

    at: float
    is_accepted: bool
    rate: float


def use(
    limit: RateLimit,
    allowed_per_s: float,
    seconds: float,
    *,
    outage_s: float = 0.0,
    share_refused: float = 1.0,
    retry_after_s: float | None = None,
    bucket: float | None = None,
) -> list[Answered]:
    """Send whenever `limit` allows it to a provider with a token bucket, which in the outage refuses requests anyway."""
    chance, size = random.Random(1), bucket or max(allowed_per_s, 1.0)
    now, tokens, filled_at = 0.0, size, 0.0
    under_way: list[tuple[float, float, bool]] = []
    answered: list[Answered] = []
    while now < seconds:
        while under_way and under_way[0][0] <= max(limit.opens_at, now):
            now, sent_at, is_accepted = heapq.heappop(under_way)
            if is_accepted:
                limit.succeed(now, sent_at=sent_at)
            else:
                limit.refuse(now, sent_at=sent_at, retry_after_s=retry_after_s)
            answered.append(Answered(now, is_accepted, limit.rate))
        now = max(now, limit.opens_at)
        limit.take(now)
        tokens, filled_at = min(tokens + (now - filled_at) * allowed_per_s, size), now
        is_accepted = tokens >= 1 and not (OUTAGE_AT <= now < OUTAGE_AT + outage_s and chance.random() < share_refused)
        tokens -= is_accepted
        heapq.heappush(under_way, (now + LATENCY_S, now, is_accepted))
    return answered


def accepted_after(answered: list[Answered], at: float) -> list[float]:
    return [each.at for each in answered if each.is_accepted and each.at > at]


@pytest.mark.parametrize("retry_after_s", [None, 0.0, 1.0, 5.0])
@pytest.mark.parametrize("outage_s", [10.0, 30.0, 90.0])
@pytest.mark.parametrize("allowed_per_s", [5.0, 10.0, 40.0])
def test_after_an_outage_of_nothing_but_429_fifty_requests_pass_within_seconds(
    allowed_per_s: float, outage_s: float, retry_after_s: float | None
) -> None:
    """A row of refusals without a success is one piece of evidence about the last good rate."""
    answered = use(RateLimit(), allowed_per_s, 300.0, outage_s=outage_s, retry_after_s=retry_after_s)
    accepted = accepted_after(answered, OUTAGE_AT + outage_s)
    assert accepted[0] - OUTAGE_AT - outage_s < 16.0
    assert accepted[49] - accepted[0] < 15.0


@pytest.mark.parametrize("outage_s", [10.0, 90.0])
def test_an_outage_right_after_the_start_is_no_different(outage_s: float) -> None:
    limit, now = RateLimit(), 0.0
    while now < outage_s:
        limit.take(now)
        limit.refuse(now, sent_at=now)
        now = limit.opens_at
    assert limit.rate >= 5.0
    assert now - outage_s < 16.0


@pytest.mark.parametrize("retry_after_s", [None, 0.0])
def test_an_outage_is_probed_ever_more_rarely(retry_after_s: float | None) -> None:
    """With `Retry-After: 0` on each refusal it was asked 27 times a second."""
    answered = use(RateLimit(), 10.0, 190.0, outage_s=90.0, retry_after_s=retry_after_s)
    assert len([each for each in answered if each.at > OUTAGE_AT and not each.is_accepted]) < 20


@pytest.mark.parametrize("share_refused", [0.5, 0.8, 0.95])
def test_an_outage_that_lets_some_requests_pass_is_over_within_minutes(share_refused: float) -> None:
    """Each refusal after a few successes cuts the rate; it still comes back faster than it could be counted in hours."""
    answered = use(RateLimit(), 5.0, 500.0, outage_s=90.0, share_refused=share_refused)
    assert [each.rate for each in answered if each.at < OUTAGE_AT + 90.0 + 180.0][-1] > 3.0


@pytest.mark.parametrize("bucket", [None, 30.0])
@pytest.mark.parametrize("allowed_per_s", [1.0, 2.0, 5.0, 40.0])
def test_a_steady_limit_refuses_few_requests_and_is_used_up(allowed_per_s: float, bucket: float | None) -> None:
    answered = use(RateLimit(), allowed_per_s, 600.0, bucket=bucket)
    accepted = accepted_after(answered, 0.0)
    assert 1 - len(accepted) / len(answered) <= 0.03
    assert len(accepted) > 0.9 * 600 * allowed_per_s


def test_a_limit_that_falls_far_is_found_within_a_minute() -> None:
    limit, now = RateLimit(), 0.0
    for each in use(limit, 40.0, 60.0):
        now = each.at
    low = RateLimit()
    low.recall(limit.dump())
    answered = use(low, 1.0, 120.0)
    late = [each for each in answered if each.at > 60.0]
    assert sum(not each.is_accepted for each in late) <= 0.1 * len(late)
    assert now > 50.0


def refused_once() -> RateLimit:
    limit = RateLimit()
    limit.take(0.0)
    limit.refuse(0.1, sent_at=0.0)
    return limit


def accepted_again() -> RateLimit:
    limit = refused_once()
    limit.take(2.0)
    limit.succeed(2.1, sent_at=2.0)
    return limit


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: RateLimit(5.0), "requests_per_second in the configuration sets it; it does not change"),
        (RateLimit, "learned; no refusal (429) limits it, and it grows while all of it is used"),
        (refused_once, "learned; the provider refused (429) once; the next request goes in 1 s"),
        (
            accepted_again,
            GROWS,
        ),
    ],
)
def test_a_limit_says_where_it_comes_from_and_when_it_grows(made: Callable[[], RateLimit], sentence: str) -> None:
    limit = made()
    assert limit.explain(3.1 if sentence is GROWS else 0.1) == sentence


def test_probes_of_a_failing_connection_do_not_raise_the_rate() -> None:
    """A probe leaves as soon as its pause ends; that is no sign that the whole rate is used."""
    limit, now = RateLimit(), 1000.0
    for _ in range(20):
        limit.pause(now, 60.0)
        now += 60.0
        limit.take(now)
        limit.succeed(now + 0.1, sent_at=now)
    assert limit.rate == RATE_FIRST
