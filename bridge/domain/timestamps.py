"""Instants and durations as text: RFC 3339 UTC out, every spelling that providers use in.

A provider's time stays text once `provider_instant` has made it canonical: Instabase sends nanoseconds, and
`datetime` would drop the last three digits.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_FIRST_CENTURIES = re.compile(r"[a-z]{3}[ -]0\d{3}\b", re.ASCII | re.IGNORECASE)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,12}))?\s*(Z|[+-]\d\d:?\d\d)?",
    re.ASCII | re.IGNORECASE,
)


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

    Accepts Unix seconds (int or float), ISO 8601 with or without a zone (then UTC), and RFC 822 text. 0, empty text,
    year 1 and unreadable values are None.
    """
    match value:
        case bool() | None:
            return None
        case int():
            return instant_from_ns(value * 1_000_000_000)
        case float():
            return instant_from_ns(round(value * 1000) * 1_000_000) if 0 < value < 1e12 else None
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
    found = _ISO.fullmatch(text)
    try:
        if found:
            day, clock, fraction, zone = found.groups()
            zone = "+00:00" if zone is None or zone in "Zz" else zone
            whole = datetime.fromisoformat(f"{day}T{clock}{zone}").astimezone(UTC)
            return _canonical(whole, (fraction or "").ljust(9, "0")[:9])
        if text.isascii() and text.isdigit():
            return instant_from_ns(int(text) * 1_000_000_000)
        if _FIRST_CENTURIES.search(text):  # the parser reads 0001 as 2001
            return None
        spelled = parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError):
        return None
    aware = spelled.replace(tzinfo=UTC) if spelled.tzinfo is None else spelled
    return _canonical(aware.astimezone(UTC), "0" * 9)


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
