"""Identifiers: a prefix and 26 characters that sort by creation time.

48 bits of Unix milliseconds, then 80 random bits, in lower-case Crockford base 32 (the layout of a ULID). An
identifier has no dot, which `webhook-id` must not contain. Within one process they increase strictly.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_RANDOM_BYTES = 10
_RANDOM_PAIRS = 8  # of characters, which hold them
_HALF = (1 << 40) - 1
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_SPELLED_UUID = re.compile(
    r"(?:urn:uuid:|\{)?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?",
    re.ASCII | re.IGNORECASE,
)
_lock = threading.Lock()
_last = 0
_random = b""


def new_id(prefix: str) -> str:
    """A new identifier such as `run_01k…`; prefixes in use: run, evt, ep, dlv, att, sec, node."""
    global _last, _random  # noqa: PLW0603 - the monotonic counter and the random bytes belong to the process
    milliseconds = time.time_ns() // 1_000_000
    with _lock:
        if not _random:  # in bulk: each system call releases the interpreter lock and waits for it
            _random = os.urandom(400 * _RANDOM_BYTES)
        drawn, _random = _random[:_RANDOM_BYTES], _random[_RANDOM_BYTES:]
        value = milliseconds << 80 | int.from_bytes(drawn)
        if value <= _last:
            value = _last + 1
        _last = value
    high, low, pair = value >> 40 & _HALF, value & _HALF, _PAIRS  # written out: an event makes five ids
    return (
        f"{prefix}_{_time_part(value >> 80)}"
        f"{pair[high >> 30]}{pair[high >> 20 & 1023]}{pair[high >> 10 & 1023]}{pair[high & 1023]}"
        f"{pair[low >> 30]}{pair[low >> 20 & 1023]}{pair[low >> 10 & 1023]}{pair[low & 1023]}"
    )


@functools.lru_cache(maxsize=16)  # many are made in one millisecond
def _time_part(milliseconds: int) -> str:
    return "".join([_PAIRS[milliseconds >> shift & 1023] for shift in range(40, -1, -10)])


def first_id(prefix: str, at: datetime) -> str:
    """The lowest identifier that can be made at `at`; later ones sort after it."""
    return f"{prefix}_{_time_part(max(0, int(at.timestamp() * 1000)))}" + _RANDOM_PAIRS * _PAIRS[0]


def made_at(identifier: str) -> datetime:
    """The time in an identifier of ours."""
    milliseconds = 0
    for character in identifier.partition("_")[2][:10]:
        milliseconds = milliseconds << 5 | _ALPHABET.index(character)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@functools.lru_cache(maxsize=4096)  # lists and polls repeat the same ids
def comparable_run_id(provider_run_id: str) -> str:
    """A provider's run id as it is compared: without blanks around it, a UUID in lower case."""
    stripped = provider_run_id.strip()
    return stripped.lower() if _UUID.fullmatch(stripped) else stripped


def is_same_run_id(answered: str, provider_run_id: str) -> bool:
    """Whether an answer means this run: as `comparable_run_id`, and a UUID may lack dashes or have a wrapping."""
    one, other = comparable_run_id(answered), comparable_run_id(provider_run_id)
    return one == other or _hex_of(one) == _hex_of(other) is not None


def _hex_of(run_id: str) -> str | None:
    found = _SPELLED_UUID.fullmatch(run_id)
    return "".join(found.groups()).lower() if found else None
