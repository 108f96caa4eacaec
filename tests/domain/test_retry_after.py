"""`Retry-After`: both spellings of RFC 9110, and whatever else receivers write there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bridge.domain.retry_after import retry_after_s

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
DAY_S = 86400


def pause_s(wish: str | None, date: str | None = None) -> float | None:
    given_ = {"retry-after": wish, "date": date}
    return retry_after_s(CIMultiDict({name: text for name, text in given_.items() if text is not None}), now=NOW)


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


@pytest.mark.parametrize("wish", [None, "", " ", "soon", "-1", "1.5", "1e3", "+5", "٣", "0x10", "5 s", "5, 6"])
def test_what_is_neither_is_no_wish(wish: str | None) -> None:
    assert pause_s(wish) is None


def test_a_date_that_is_over_is_no_wish() -> None:
    assert pause_s(http_date(-1)) is None
    assert pause_s(http_date(0)) == 0


@given(st.text(), st.text())
def test_no_text_is_an_error_and_no_pause_exceeds_a_day(wish: str, date: str) -> None:
    found = pause_s(wish, date)
    assert found is None or 0 <= found <= DAY_S
