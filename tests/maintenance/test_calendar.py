"""The calendar: chores by cron lines, and the retry of one that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from bridge.domain.errors import StoreUnavailable
from bridge.maintenance.calendar import EVERY_MINUTE, Calendar, run_chore


@pytest.fixture
async def calendar() -> AsyncIterator[Calendar]:
    one = Calendar()
    one.start()
    yield one
    one.stop()


async def chore() -> None:
    pass


async def test_a_line_is_read_in_utc_and_can_be_changed_and_taken_away(calendar: Calendar) -> None:
    calendar.set("backup", None, chore)
    assert calendar.next_at("backup") is None
    calendar.set("backup", "15 3 * * *", chore)
    at = calendar.next_at("backup")
    assert at is not None
    assert (at.hour, at.minute, at.utcoffset()) == (3, 15, timedelta(0))
    calendar.set("backup", EVERY_MINUTE, chore)
    at = calendar.next_at("backup")
    assert at is not None
    assert at - datetime.now(UTC) <= timedelta(minutes=1)
    calendar.reschedule()
    assert calendar.next_at("backup") is not None
    calendar.set("backup", None, chore)
    assert calendar.next_at("backup") is None


@pytest.mark.parametrize(
    ("error", "event"), [(StoreUnavailable("disk full"), "chore.postponed"), (LookupError("?"), "chore.failed")]
)
async def test_what_a_chore_raises_is_logged_and_ends_nothing(error: Exception, event: str) -> None:
    async def fail() -> None:
        raise error

    with capture_logs() as logs:
        await run_chore("sweep", fail)
    assert [(line["event"], line["chore"]) for line in logs] == [(event, "sweep")]
