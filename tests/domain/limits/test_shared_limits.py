"""The limits of one credential, divided among the nodes that use it: together never more than all of them."""

from __future__ import annotations

import math

import pytest

from bridge.domain.limits.adaptive import RATE_FIRST, RATE_MAX
from bridge.domain.limits.fair_limiter import FairRateLimiter


def gates(nodes: int, rate: float | None = None, in_flight: int | None = None) -> list[FairRateLimiter]:
    """The gates of so many nodes with the same configuration."""
    made = [FairRateLimiter(rate, in_flight) for _ in range(nodes)]
    for place, limiter in enumerate(made):
        limiter.divide(place, nodes)
    return made


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 8, 9, 40])
@pytest.mark.parametrize("in_flight", [1, 2, 3, 8])
def test_known_limits_are_divided_without_rest(nodes: int, in_flight: int) -> None:
    """A node without a place in flight is shut, and its share of the rate falls to the others."""
    asking = [limiter for limiter in gates(nodes, 5.0, in_flight) if not limiter.is_shut]
    assert sum(limiter.rate_limit.rate for limiter in asking) == pytest.approx(5.0)
    places = [limiter.in_flight_limit.limit(limiter.rate_limit.rate) for limiter in asking]
    assert sum(places) == in_flight
    assert min(places) >= 1
    assert len(asking) == min(nodes, in_flight)


def test_a_shut_gate_opens_at_no_time_until_it_has_a_share_again() -> None:
    limiter = FairRateLimiter(5.0, 1)
    limiter.divide(1, 2)
    assert limiter.opens_at() == math.inf
    limiter.divide(0, 1)
    assert limiter.opens_at() <= 0
    assert limiter.rate_limit.rate == 5.0
    limiter.shut()
    assert limiter.opens_at() == math.inf


def test_a_learned_rate_falls_when_a_node_comes_and_does_not_jump_when_one_goes() -> None:
    """The provider's total limit is not known; the node that is left learns it gradually."""
    limiter = FairRateLimiter()
    limiter.divide(0, 2)
    assert limiter.rate_limit.rate == RATE_FIRST / 2
    limiter.divide(0, 1)
    assert limiter.rate_limit.rate == RATE_FIRST / 2


def test_learned_rates_together_stay_below_the_most_that_is_ever_asked() -> None:
    total = 0.0
    for limiter in gates(4):
        now = 0.0
        for _ in range(2000):
            now = max(now, limiter.opens_at())
            limiter.send(now)
            limiter.answer(now, sent_at=now)
        total += limiter.rate_limit.rate
    assert total == pytest.approx(RATE_MAX)
