"""Wait for a condition, with a deadline: what tests do in place of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
INTERVAL_S = 0.02


async def until(holds: Callable[[], T | Awaitable[T]], *, timeout_s: float = 60.0, what: str = "it") -> T:
    """The first true result of `holds`; AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = holds()
        answer: T = await result if inspect.isawaitable(result) else result
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:g} s"
        await asyncio.sleep(INTERVAL_S)


def wait_until(holds: Callable[[], T], *, timeout_s: float = 60.0, what: str = "it") -> T:
    """As `until`, for tests without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(INTERVAL_S)
    return answer
