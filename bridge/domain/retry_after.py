"""`Retry-After` of a receiver: seconds or an HTTP date (RFC 9110 §10.2.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bridge.domain.retry import RETRY_AFTER_MAX_S

_SECONDS = re.compile(r"[0-9]+")


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """The pause in seconds that `headers` (case-insensitive) ask for, at most 24 h; None if none can be read.

    A date is held against the answer's own `Date` where it has one, so that a wrong clock does no harm.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_S)
    then = _http_date(text)
    if then is None:
        return None
    pause_s = (then - (_http_date(headers.get("Date", "")) or now)).total_seconds()
    return min(pause_s, RETRY_AFTER_MAX_S) if pause_s >= 0 else None


def _http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed  # -0000 parses as naive and means UTC
