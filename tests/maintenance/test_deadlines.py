"""Deadlines that no poll noticed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from bridge.domain.run import RunStatus
from bridge.maintenance.deadlines import GRACE_S, expire_overdue
from bridge.store import runs
from bridge.store.database import Database
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import register
from tests.support.workbench import event_types


@pytest.fixture
def database(either: Database) -> Database:
    return either


async def test_a_run_expires_when_its_deadline_has_passed_and_no_poll_noticed(
    database: Database, clock: ManualClock
) -> None:
    overdue = await register(database, "overdue", deadline_at=START + timedelta(minutes=1))
    other = await register(database, "other", deadline_at=START + timedelta(minutes=2))
    clock.advance(60 + GRACE_S)
    assert await expire_overdue(database) == [], "a connection that answers has its last poll first"
    clock.advance(1)
    with capture_logs() as logs:
        assert [run.id for run in await expire_overdue(database)] == [overdue.id]
    assert [(line["event"], line["run_id"]) for line in logs] == [("run.expired", overdue.id)]
    assert await event_types(database, overdue.id) == ["run.finished"]
    found = {
        run_id: await database.read(lambda tx, run_id=run_id: runs.get_run(tx, run_id))
        for run_id in (overdue.id, other.id)
    }
    assert [run and run.status for run in found.values()] == [RunStatus.EXPIRED, RunStatus.QUEUED]
    assert await expire_overdue(database) == []
