"""Identifiers: a prefix and 26 characters that sort by the time they were made.

48 bits of Unix milliseconds, then 80 random bits, in Crockford's base 32, lower case (the layout
of a ULID). Never a dot: `webhook-id` must not hold one. Within one process strictly increasing.
"""

from __future__ import annotations

import os
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_RANDOM_BYTES = 10
_lock = threading.Lock()
_last = 0
_drawn = b""


def new_id(prefix: str) -> str:
    """A fresh identifier such as `run_01k…`; prefixes in use: run, evt, ep, dlv, att, sec, node."""
    global _last, _drawn  # noqa: PLW0603 - the monotonic counter and the random bytes belong to the process
    milliseconds = time.time_ns() // 1_000_000
    with _lock:
        if not _drawn:  # many at once: each system call lets other threads in, and waits to come back
            _drawn = os.urandom(400 * _RANDOM_BYTES)
        drawn, _drawn = _drawn[:_RANDOM_BYTES], _drawn[_RANDOM_BYTES:]
        value = milliseconds << 80 | int.from_bytes(drawn)
        if value <= _last:
            value = _last + 1
        _last = value
    return f"{prefix}_" + "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])
