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
    made = Sender(LOOPBACK, timeout_s=60, clock=ManualClock(NOW))
    yield made
    await made.close()


@pytest.fixture
def brief_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response may take as long as it likes to begin, but its body must end soon."""
    monkeypatch.setattr("bridge.delivery.sender.BODY_TIMEOUT_S", 0.3)


@pytest.fixture
async def hasty() -> AsyncIterator[Sender]:
    """For responses that never come: the deadline of the whole exchange is short."""
    made = Sender(LOOPBACK, timeout_s=0.8, clock=ManualClock(NOW))
    yield made
    await made.close()
