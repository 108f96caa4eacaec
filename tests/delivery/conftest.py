"""Senders that may post to loopback addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from bridge.delivery.sender import Sender
from tests.support.manual_clock import ManualClock
from tests.support.posting import LOOPBACK

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    made = Sender(LOOPBACK, timeout_s=10, clock=ManualClock(NOW))
    yield made
    await made.close()


@pytest.fixture
async def hasty() -> AsyncIterator[Sender]:
    """For responses that never come: the deadline of the whole exchange is short."""
    made = Sender(LOOPBACK, timeout_s=0.3, clock=ManualClock(NOW))
    yield made
    await made.close()
