"""Instants and durations as text: RFC 3339 UTC out, every spelling that providers use in.

A provider's time stays text once `provider_instant` has made it canonical: Instabase sends nanoseconds, and
`datetime` would drop the last three digits.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_FIRST_CENTURIES = re.compile(r"[a-z]{3}[ -]0\d{3}\b", re.ASCII | re.IGNORECASE)
_ISO = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)[T ](\d\d):?(\d\d)(?::?(\d\d))?(?:[.,](\d{1,12}))?"
    r"\s*(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?(?:\[[\w/+-]{1,40}\]|(?<=[+-]\d{4}) [A-Z]{3,5})?",  # Java, Go
    re.ASCII | re.IGNORECASE,
)
_EPOCH = re.compile(r"(\d{1,19})(?:\.(\d{1,12}))?", re.ASCII)
_DOT_NET = re.compile(r"/Date\((\d{1,19})(?:[+-]\d{4})?\)/", re.ASCII)
_COMPACT_DIGITS = (12, 14)  # 202601151030, 20260115103005
_EPOCH_UNITS_NS = (10**9, 10**6, 10**3, 1)
_EPOCH_MIN_NS, _EPOCH_MAX_NS = 31_536_000 * 10**9, 7_258_118_400 * 10**9  # 1971 to 2200: no two units overlap


@functools.lru_cache(maxsize=1024)  # every row that a transaction writes has the same instant
def format_instant(instant: datetime) -> str:
    """RFC 3339 UTC with milliseconds: `2026-01-15T10:30:05.120Z`."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def format_duration(seconds: float) -> str:
    """The shortest exact spelling in one unit: `250ms`, `90s`, `5m`, `30d`."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNITS[unit] and (seconds / _UNITS[unit]).is_integer():
            return f"{int(seconds / _UNITS[unit])}{unit}"
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{number:.6f}".rstrip("0").rstrip(".") + unit


def parse_duration(text: str) -> float:
    """Seconds in `250ms`, `2s`, `5m`, `2h`, `30d` or a sum such as `1h30m`. Raises ValueError otherwise."""
    stripped = text.strip()
    parts = _DURATION.findall(stripped)
    if not parts or "".join(number + unit for number, unit in parts) != stripped:
        raise ValueError("expected a duration such as 250ms, 2s, 5m, 2h or 30d")
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def parse_instant(text: str) -> datetime:
    """The aware instant in RFC 3339 text with an offset. Raises ValueError otherwise."""
    instant = datetime.fromisoformat(text.strip())
    if instant.tzinfo is None:
        raise ValueError("an instant needs its offset, for example 2026-01-15T10:30:00Z")
    return instant.astimezone(UTC)


def instant_from_ns(nanoseconds: int) -> str | None:
    """Canonical text of Unix nanoseconds, exact to the last digit; None for 0 and outside the calendar."""
    if nanoseconds <= 0:
        return None
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    try:
        whole = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    return _canonical(whole, f"{fraction:09d}")


def provider_instant(value: object) -> str | None:
    """Canonical RFC 3339 text of a provider's time, or None.

    Accepts Unix time in seconds, milliseconds, microseconds or nanoseconds (a number or its text; the magnitude says
    which), ISO 8601 with or without a zone (then UTC), and RFC 822 text. 0, empty text, year 1 and unreadable values
    are None.
    """
    match value:
        case bool() | None:
            return None
        case int():
            return _from_epoch(value)
        case float():
            return _from_text(f"{value:.3f}") if 0 < value < 2**53 else None  # a double is exact up to there
        case str():
            return _from_text(value.strip())
        case _:
            return None


def seconds_between(earlier: str | None, later: str | None) -> float | None:
    """Seconds from one canonical provider time to another; None if either is missing."""
    if earlier is None or later is None:
        return None
    return (parse_instant(later) - parse_instant(earlier)).total_seconds()


@functools.lru_cache(maxsize=1024)  # all responses within a second have the same Date header
def _from_text(text: str) -> str | None:
    number = _EPOCH.fullmatch(text) or _DOT_NET.fullmatch(text)
    is_compact = len(text) in _COMPACT_DIGITS and text.isdecimal() and text.startswith("20")
    if number and not is_compact:
        return _from_epoch(int(number[1]), "".join(number.groups(default="")[1:]))
    found = _ISO.fullmatch(f"{text[:8]}T{text[8:]}" if is_compact else text)
    try:
        if found:
            return _from_iso(*found.groups(default=""))
        if _FIRST_CENTURIES.search(text):  # the parser reads 0001 as 2001
            return None
        from email.utils import parsedate_to_datetime  # takes 10 ms to import, for which no command needs to wait

        spelled = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    aware = spelled.replace(tzinfo=UTC) if spelled.tzinfo is None else spelled
    return _canonical(aware.astimezone(UTC), "0" * 9)


def _from_epoch(number: int, fraction: str = "") -> str | None:
    for unit_ns in _EPOCH_UNITS_NS:
        if _EPOCH_MIN_NS <= number * unit_ns < _EPOCH_MAX_NS:
            return instant_from_ns(number * unit_ns + int(fraction.ljust(12, "0")) * unit_ns // 10**12)
    return None


def _from_iso(
    year: str, _dash: str, month: str, day: str, hour: str, minute: str, second: str, fraction: str, zone: str
) -> str | None:
    second = second or "00"
    is_leap, is_midnight = second == "60", hour + minute + second == "240000"  # which datetime does not have
    clock = f"{'00' if is_midnight else hour}:{minute}:{'59' if is_leap else second}"
    offset = "+00:00" if zone.upper() in ("", "Z", "UTC", "GMT") else zone
    whole = datetime.fromisoformat(f"{year}-{month}-{day}T{clock}{offset}").astimezone(UTC)
    return _canonical(whole + timedelta(days=is_midnight, seconds=is_leap), fraction.ljust(9, "0")[:9])


def _canonical(whole: datetime, nanos: str) -> str | None:
    if whole.year < 1971 or whole.year > 9000:  # 0001-01-01 and 1970 mean "not set" at several providers
        return None
    fraction = nanos.rstrip("0")
    digits = next(n for n in (0, 3, 6, 9) if n >= len(fraction))
    text = whole.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction.ljust(digits, '0')}Z" if digits else f"{text}Z"


def after(now: datetime, seconds: float) -> datetime:
    """The instant `seconds` after `now`."""
    return now + timedelta(seconds=seconds)
