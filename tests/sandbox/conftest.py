"""Fixtures of the sandbox's tests: a running sandbox on a clock moved by hand, and a client with the key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from bridge.sandbox import Sandbox
from bridge.sandbox.server import SANDBOX_KEY
from tests.support.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 15, 10, 30, 0, 123456, tzinfo=UTC))


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=clock) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    headers = {"Authorization": f"Bearer {SANDBOX_KEY}"}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield session
