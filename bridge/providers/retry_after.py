"""The pause that a provider asks for, in any of the headers that providers use for it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

PAUSE_MAX_S: Final = 3600.0  # a mistaken header must not stop polling for a year
_NUMBER: Final = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)
_EPOCH_MIN: Final = 1e9  # a smaller number in a reset header is seconds from now


def requested_pause_s(headers: Mapping[str, str], *, with_quota: bool = False) -> float | None:
    """The pause in seconds that `headers` (case-insensitive) ask for, at most one hour; None if they ask for none.

    Reads `retry-after-ms`, `openai-poll-after-ms`, `Retry-After` as seconds or HTTP date and, with `with_quota`,
    `x-ratelimit-reset`. Dates are compared with the response's own `Date`, so that a wrong clock does no harm.
    """
    for name in ("retry-after-ms", "openai-poll-after-ms"):
        given = headers.get(name)
        if given and (milliseconds := _number(given)) is not None:
            return min(milliseconds / 1000, PAUSE_MAX_S)
    pause_s, wanted = None, headers.get("retry-after")
    if wanted is not None:  # hardly ever
        pause_s = _number(wanted)
        pause_s = _until(_epoch_of(wanted), headers) if pause_s is None else pause_s
    if pause_s is None and with_quota:
        pause_s = _until_reset(headers)
    return None if pause_s is None else min(pause_s, PAUSE_MAX_S)


def quota_is_used_up(headers: Mapping[str, str]) -> bool:
    """Whether the headers of a 403 mean a used-up quota rather than a refused key."""
    return headers.get("x-ratelimit-remaining", "").strip() == "0" or requested_pause_s(headers) is not None


def _number(text: str) -> float | None:
    stripped = text.strip()
    return float(stripped) if _NUMBER.fullmatch(stripped) else None


def _epoch_of(http_date: str) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _until(epoch_s: float | None, headers: Mapping[str, str]) -> float | None:
    if epoch_s is None:
        return None
    now_s = _epoch_of(headers.get("date", ""))
    pause_s = epoch_s - (time.time() if now_s is None else now_s)
    return pause_s if pause_s >= 0 else None


def _until_reset(headers: Mapping[str, str]) -> float | None:
    reset = _number(headers.get("x-ratelimit-reset", ""))
    if reset is None or reset < _EPOCH_MIN:
        return reset
    return _until(reset / 1000 if reset >= _EPOCH_MIN * 1000 else reset, headers)
