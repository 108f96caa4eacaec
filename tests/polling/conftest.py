"""The poller's tests run on the machine's clock: polls go to real servers, by the event loop's time."""

from __future__ import annotations

import pytest

from bridge.domain.clock import SystemClock


@pytest.fixture
def clock() -> SystemClock:
    """The machine's clock."""
    return SystemClock()
