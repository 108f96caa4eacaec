"""Instants and durations: what providers write, what we write, and that nothing is an error."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.timestamps import (
    format_duration,
    format_instant,
    instant_from_ns,
    parse_duration,
    parse_instant,
    provider_instant,
    seconds_between,
)

RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6}|\.\d{9})?Z", re.ASCII)
UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1972, 1, 1), datetime(8999, 1, 1), timezones=zones)  # noqa: DTZ001 - `zones` follow


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (1768473005, "2026-01-15T10:30:05Z"),
        (1768473005.12, "2026-01-15T10:30:05.120Z"),
        (1768473005.0, "2026-01-15T10:30:05Z"),
        ("1768473005", "2026-01-15T10:30:05Z"),
        (1768473005120, "2026-01-15T10:30:05.120Z"),
        (1768473005120.0, "2026-01-15T10:30:05.120Z"),
        (1768473005120456, "2026-01-15T10:30:05.120456Z"),
        (1768473005120456789, "2026-01-15T10:30:05.120456789Z"),
        ("1768473005120", "2026-01-15T10:30:05.120Z"),
        ("1768473005120456789", "2026-01-15T10:30:05.120456789Z"),
        ("1768473005.120456", "2026-01-15T10:30:05.120456Z"),
        ("1768473005120.5", "2026-01-15T10:30:05.120500Z"),
        ("2026-01-15T10:30:05+00", "2026-01-15T10:30:05Z"),
        ("2026-01-15 15:30:05+05", "2026-01-15T10:30:05Z"),
        ("2026-01-15T05:00:05.5-05:30", "2026-01-15T10:30:05.500Z"),
        ("2026-01-15 10:30:05 UTC", "2026-01-15T10:30:05Z"),
        ("2026-01-15 10:30:05.123 utc", "2026-01-15T10:30:05.123Z"),
        ("2026-01-15T10:30:05 GMT", "2026-01-15T10:30:05Z"),
        ("2026-01-15 10:30:05 +0000", "2026-01-15T10:30:05Z"),
        ("2026-01-15T11:30:05+01:00[Europe/Berlin]", "2026-01-15T10:30:05Z"),
        ("20260115T103005Z", "2026-01-15T10:30:05Z"),
        ("20260115T103005.120Z", "2026-01-15T10:30:05.120Z"),
        ("20260115T1530+05", "2026-01-15T10:30:00Z"),
        ("20260115103005", "2026-01-15T10:30:05Z"),
        ("202601151030", "2026-01-15T10:30:00Z"),
        ("2026-01-15 10:30:05.5 +0000 UTC", "2026-01-15T10:30:05.500Z"),
        ("2026-01-15 11:30:05 +0100 CET", "2026-01-15T10:30:05Z"),
        ("/Date(1768473005000)/", "2026-01-15T10:30:05Z"),
        ("/Date(1768473005000+0100)/", "2026-01-15T10:30:05Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2026-01-15T10:30:60.5Z", "2026-01-15T10:31:00.500Z"),
        ("2026-01-15T24:00:00Z", "2026-01-16T00:00:00Z"),
        ("2026-01-15T10:30:05Z", "2026-01-15T10:30:05Z"),
        ("2026-01-15t10:30:05z", "2026-01-15T10:30:05Z"),
        ("2026-01-15T10:30:05", "2026-01-15T10:30:05Z"),
        ("2026-01-15 10:30:05", "2026-01-15T10:30:05Z"),
        (" 2026-01-15T10:30:05Z\n", "2026-01-15T10:30:05Z"),
        ("2026-01-15T10:30Z", "2026-01-15T10:30:00Z"),
        ("2026-01-15T12:00:05+01:30", "2026-01-15T10:30:05Z"),
        ("2026-01-15T05:30:05-0500", "2026-01-15T10:30:05Z"),
        ("2026-01-15T10:30:05.1Z", "2026-01-15T10:30:05.100Z"),
        ("2026-01-15T10:30:05,120Z", "2026-01-15T10:30:05.120Z"),
        ("2026-01-15T10:30:05.123456", "2026-01-15T10:30:05.123456Z"),
        ("2026-01-15T10:30:05.123456789Z", "2026-01-15T10:30:05.123456789Z"),
        ("2026-01-15T10:30:05.123456789+00:00", "2026-01-15T10:30:05.123456789Z"),
        ("2026-01-15T10:30:05.000000000Z", "2026-01-15T10:30:05Z"),
        ("Thu, 15 Jan 2026 10:30:05 GMT", "2026-01-15T10:30:05Z"),
        ("Thu, 15 Jan 2026 11:30:05 +0100", "2026-01-15T10:30:05Z"),
        ("Thu, 15 Jan 2026 10:30:05 -0000", "2026-01-15T10:30:05Z"),
        ("15 Jan 2026 05:30:05 EST", "2026-01-15T10:30:05Z"),
    ],
)
def test_every_spelling_of_a_provider_becomes_rfc_3339_in_utc(given: object, meant: str) -> None:
    assert provider_instant(given) == meant


@pytest.mark.parametrize(
    "given",
    [
        None, "", " ", 0, 0.0, "0", "2026-01-15 10:30:05 EST", -1, -1.5, True, False, [], {}, b"2026-01-15T10:30:05Z",
        "0001-01-01T00:00:00Z", "0001-01-01T00:00:00", "0001-01-01T00:00:00+05:00", "1970-01-01T00:00:00Z",
        "Mon, 01 Jan 0001 00:00:00 GMT", "9999-12-31T23:59:59-10:00", "2026-02-30T00:00:00Z", "2026-01-15T25:00:00Z",
        "null", "soon", "٢٠٢٦-٠١-١٥T١٠:٣٠:٠٥Z", "²", math.nan, math.inf, -math.inf, 10**30, 10**5000, 1e300,
        "9" * 30, "9" * 5000,
    ],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_what_shows_no_time_is_none_and_never_our_own_clock(given: object) -> None:
    assert provider_instant(given) is None


@given(instants)
def test_iso_and_rfc_822_in_any_zone_mean_the_instant_that_they_say(instant: datetime) -> None:
    given = provider_instant(instant.isoformat())
    assert given is not None
    assert parse_instant(given) == instant
    mailed = provider_instant(format_datetime(instant))
    assert mailed is not None
    assert parse_instant(mailed) == instant.replace(microsecond=0)


@given(st.integers(31_536_000 * 10**9 + 1, 2**62))
def test_nanoseconds_are_kept_to_the_last_digit(nanoseconds: int) -> None:
    text = instant_from_ns(nanoseconds)
    assert text is not None
    assert RFC3339_UTC.fullmatch(text)
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = round(parse_instant(whole + "Z").timestamp())
    assert seconds * 10**9 + int(fraction.ljust(9, "0")) == nanoseconds
    assert provider_instant(text) == text


@given(st.text() | st.integers() | st.floats() | st.from_regex(r"\A[-0-9T:., +ZGMTJan]{0,40}\Z"))
def test_nothing_is_an_error_and_what_comes_is_rfc_3339_that_means_itself(given: object) -> None:
    text = provider_instant(given)
    if text is not None:
        assert RFC3339_UTC.fullmatch(text)
        assert provider_instant(text) == text
        assert parse_instant(text).utcoffset() == timedelta(0)


@given(instants)
def test_our_own_instants_have_milliseconds_and_z(instant: datetime) -> None:
    text = format_instant(instant)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text, re.ASCII)
    assert timedelta(0) <= instant - parse_instant(text) < timedelta(milliseconds=1)


def test_an_instant_of_ours_is_spelled_as_in_the_contract() -> None:
    assert format_instant(datetime(2026, 1, 15, 10, 30, 5, 120_000, tzinfo=UTC)) == "2026-01-15T10:30:05.120Z"


@pytest.mark.parametrize("text", ["", "soon", "2026-01-15", "2026-01-15T10:30:00", "10:30Z", "2026-13-01T00:00:00Z"])
def test_an_instant_without_its_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_instant(text)


def test_seconds_between_two_times_are_known_only_if_both_are() -> None:
    assert seconds_between("2026-01-15T10:30:05.123456789Z", "2026-01-15T10:30:06.123456789Z") == 1.0
    assert seconds_between(None, "2026-01-15T10:30:05Z") is None
    assert seconds_between("2026-01-15T10:30:05Z", None) is None


# --- durations ---


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS_S)))
def test_a_number_and_a_unit_are_that_many_seconds(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * UNITS_S[unit])


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400), ("1.5h", 5400), (" 2s ", 2), ("1d2h3m4s5ms", 93784.005), ("0s", 0)]
)
def test_sums_and_fractions_are_read_too(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "1h 30m", "5S", "5sec", "5w", "5s!", "1.s", ".5s", "٣s", "5s5", "1e3s", "nan"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 250ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250ms"),
        (2, "2s"),
        (2.5, "2.5s"),
        (90, "90s"),
        (300, "5m"),
        (5400, "90m"),
        (7200, "2h"),
        (2592000, "30d"),
    ],
)
def test_a_duration_is_shown_in_one_unit_as_short_as_it_goes(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 3650 * 86_400_000).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_as_shown_can_be_given_again(seconds: float) -> None:
    """To the millisecond, up to the longest deadline: what `config show` tells is what the file may say."""
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0, abs=1e-6)
