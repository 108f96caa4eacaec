"""The retry schedule: delays, their spread, the receiver's own wish, the end."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.retry import RetrySchedule, next_attempt_at

NOW = datetime(2026, 1, 15, tzinfo=UTC)
HOUR_S, DAY_S = 3600.0, 86400.0
DELAYS_S = [5, 300, 1800, 2 * HOUR_S, 5 * HOUR_S, 10 * HOUR_S, 14 * HOUR_S, 20 * HOUR_S, DAY_S]
DEFAULT = RetrySchedule()


def delay_s(failures: int, *, wish_s: float | None = None, schedule: RetrySchedule = DEFAULT, seed: int = 0) -> float:
    chance = random.Random(seed)
    found = next_attempt_at(failures, now=NOW, schedule=schedule, retry_after_s=wish_s, chance=chance)
    assert found is not None
    return (found - NOW).total_seconds()


class Extreme(random.Random):
    """Chance that always takes the least or the most."""

    def __init__(self, *, takes_most: bool) -> None:
        super().__init__()
        self.takes_most = takes_most

    def uniform(self, a: float, b: float) -> float:
        return b if self.takes_most else a


@pytest.mark.parametrize(("failures", "planned_s"), list(enumerate(DELAYS_S, start=1)))
def test_each_delay_is_the_contracts_give_or_take_a_fifth(failures: int, planned_s: float) -> None:
    for takes_most, share in ((False, 0.8), (True, 1.2)):
        found = next_attempt_at(failures, now=NOW, schedule=DEFAULT, chance=Extreme(takes_most=takes_most))
        assert found == NOW + timedelta(seconds=planned_s * share)


@given(st.integers(1, 9), st.integers())
def test_no_chance_leaves_the_spread(failures: int, seed: int) -> None:
    assert 0.8 <= delay_s(failures, seed=seed) / DELAYS_S[failures - 1] <= 1.2


def test_the_spread_is_used_so_that_a_thousand_deliveries_do_not_come_back_together() -> None:
    found = sorted(delay_s(2, seed=seed) for seed in range(1000))
    assert found[0] < 250
    assert found[-1] > 350
    assert 290 < sum(found) / len(found) < 310


@pytest.mark.parametrize("failures", [10, 11, 1000])
def test_after_the_tenth_attempt_there_is_none(failures: int) -> None:
    assert next_attempt_at(failures, now=NOW, schedule=DEFAULT) is None
    assert next_attempt_at(failures, now=NOW, schedule=DEFAULT, retry_after_s=60.0) is None


@given(st.integers(1, 9), st.integers(), st.floats(0, 1e9))
def test_a_wish_never_brings_an_attempt_forward_and_counts_a_day_at_most(
    failures: int, seed: int, wish_s: float
) -> None:
    unasked_s, asked_s = delay_s(failures, seed=seed), delay_s(failures, seed=seed, wish_s=wish_s)
    assert asked_s >= unasked_s
    assert asked_s == pytest.approx(max(unasked_s, min(wish_s, DAY_S)), abs=1e-5)


@given(st.lists(st.floats(0, 1e6), max_size=12))
def test_an_own_schedule_is_used_up_after_its_own_length(delays_s: list[float]) -> None:
    schedule = RetrySchedule(tuple(delays_s), jitter=0.0)
    for failures, planned_s in enumerate(delays_s, start=1):
        assert delay_s(failures, schedule=schedule) == pytest.approx(planned_s, abs=1e-5)
    assert next_attempt_at(len(delays_s) + 1, now=NOW, schedule=schedule) is None
