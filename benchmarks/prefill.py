"""A database with many runs in it, made without a daemon: over the store's own functions, in batches."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from bridge.domain.clock import SystemClock
from bridge.domain.ids import new_id
from bridge.store import runs, tables
from bridge.store.database import Database
from bridge.store.runs import NewRun
from bridge.store.transaction import Tx

BATCH = 5_000
PLAIN = NewRun(
    id="",
    connection="dibby",
    provider="dibby",
    provider_run_id="",
    workflow_id=None,
    metadata={},
    tags=(),
    cadence=None,
    deadline_at=None,
    deadline_is_fixed=False,
)


class _FixedClock(SystemClock):
    """Its wall clock always shows the same instant."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


async def insert_runs(
    url: str, count: int, *, due_at: datetime | None = None, every_s: float = 0.0, prefix: str = "w"
) -> float:
    """Register `count` runs, the first due at `due_at` (else now), each `every_s` after the one before it; runs/s."""
    clock = SystemClock() if due_at is None else _FixedClock(due_at)
    database = Database(url, clock)
    await database.open()
    began_s = time.monotonic()
    try:
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            new = [replace(PLAIN, id=new_id("run"), provider_run_id=f"{prefix}{n}") for n in numbers]
            await database.write(lambda tx, new=new: runs.insert_runs(tx, new))
            if every_s:
                await database.write(lambda tx, new=new, start=start: _spread(tx, new, start, every_s))
    finally:
        await database.close()
    return count / (time.monotonic() - began_s)


def _spread(tx: Tx, new: list[NewRun], start: int, every_s: float) -> None:
    due = [
        {"run": run.id, "due": tx.now + timedelta(seconds=number * every_s)} for number, run in enumerate(new, start)
    ]
    statement = sa.update(tables.runs).where(tables.runs.c.id == sa.bindparam("run"))
    tx.connection.execute(statement.values(next_poll_at=sa.bindparam("due")), due)


def in_an_hour() -> datetime:
    """When nothing is due while a benchmark runs."""
    return SystemClock().now() + timedelta(hours=1)
