"""The retry schedule (delays, their spread, the receiver's pause, the end) and both spellings of `Retry-After`."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bridge.domain.delivery import RetrySchedule, next_attempt_at, parse_retry_after

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
HOUR_S, DAY_S = 3600.0, 86400.0
DELAYS_S = [5, 300, 1800, 2 * HOUR_S, 5 * HOUR_S, 10 * HOUR_S, 14 * HOUR_S, 20 * HOUR_S, DAY_S]
DEFAULT = RetrySchedule()


def delay_s(failures: int, *, asked_s: float | None = None, schedule: RetrySchedule = DEFAULT, seed: int = 0) -> float:
    chance = random.Random(seed)
    found = next_attempt_at(failures, now=NOW, schedule=schedule, retry_after_s=asked_s, chance=chance)
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
    failures: int, seed: int, asked_s: float
) -> None:
    unasked_s, asked_s = delay_s(failures, seed=seed), delay_s(failures, seed=seed, asked_s=asked_s)
    assert asked_s >= unasked_s
    assert asked_s == pytest.approx(max(unasked_s, min(asked_s, DAY_S)), abs=1e-5)


@given(st.lists(st.floats(0, 1e6), max_size=12))
def test_an_own_schedule_is_used_up_after_its_own_length(delays_s: list[float]) -> None:
    schedule = RetrySchedule(tuple(delays_s), jitter=0.0)
    for failures, planned_s in enumerate(delays_s, start=1):
        assert delay_s(failures, schedule=schedule) == pytest.approx(planned_s, abs=1e-5)
    assert next_attempt_at(len(delays_s) + 1, now=NOW, schedule=schedule) is None


# --- Retry-After ---


def pause_s(text: str | None, date: str | None = None) -> float | None:
    given_ = {"retry-after": text, "date": date}
    return parse_retry_after(CIMultiDict({name: text for name, text in given_.items() if text is not None}), now=NOW)


def http_date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@given(st.integers(0, 10**15 - 1))
def test_seconds_are_taken_up_to_a_day(seconds: int) -> None:
    assert pause_s(str(seconds)) == pause_s(f"  {seconds} ") == min(seconds, DAY_S)


@given(st.integers(0, 10**9))
def test_a_date_is_taken_up_to_a_day(seconds: int) -> None:
    assert pause_s(http_date(seconds)) == min(seconds, DAY_S)


@given(st.integers(0, DAY_S), st.integers(-(10**8), 10**8))
def test_a_date_is_held_against_the_answers_own_clock(seconds: int, wrong_by_s: int) -> None:
    assert pause_s(http_date(wrong_by_s + seconds), http_date(wrong_by_s)) == seconds


def test_an_own_date_that_cannot_be_read_does_no_harm() -> None:
    assert pause_s(http_date(60), "yesterday") == 60


@pytest.mark.parametrize(
    "date", ["Thursday, 15-Jan-26 10:31:00 GMT", "Thu Jan 15 10:31:00 2026", "Thu, 15 Jan 2026 10:31:00 -0000"]
)
def test_the_old_spellings_of_a_date_are_read_too(date: str) -> None:
    assert pause_s(date) == 60


@pytest.mark.parametrize("text", [None, "", " ", "soon", "-1", "1.5", "1e3", "+5", "٣", "0x10", "5 s", "5, 6"])
def test_what_is_neither_is_no_wish(text: str | None) -> None:
    assert pause_s(text) is None


def test_a_date_that_is_over_is_no_wish() -> None:
    assert pause_s(http_date(-1)) is None
    assert pause_s(http_date(0)) == 0


@given(st.text(), st.text())
def test_no_text_is_an_error_and_no_pause_exceeds_a_day(text: str, date: str) -> None:
    found = pause_s(text, date)
    assert found is None or 0 <= found <= DAY_S
