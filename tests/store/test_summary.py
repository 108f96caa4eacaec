"""The counts of a large database read indexes; rows are looked up only for what is rare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.domain.run import Run
from bridge.domain.transition import observe
from bridge.store import runs
from bridge.store.runs import RunChange
from bridge.store.summary import count_all, count_minutes
from bridge.store.transaction import Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import add_endpoint, in_parts, new_run, open_database, seen

RUNS = 20_000
ALLOWED = ("ix_runs_status", "ix_runs_leased", "ix_endpoints_shared", "sqlite_autoindex")


def observe_all(tx: Tx, watched: Sequence[Run], status: str) -> None:
    decisions = [(run, observe(run, seen(status), now=tx.now, wants_progress=False)) for run in watched]
    changes = [RunChange(run, decision) for run, decision in decisions if decision is not None]
    runs.record_decisions(tx, changes, node=None, keep_lease=False)


def caught(tx: Tx) -> list[tuple[str, Any]]:
    """The statements of a summary."""
    found: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, given: Any, _context: object, _many: bool) -> None:
        found.append((statement, given))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        count_all(tx)
        count_minutes(tx, START)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return found


def rows_walked(tx: Tx, statement: str, given: Any) -> list[str]:
    """The steps of a plan that read the rows of a growing table from end to end."""
    if tx.is_postgresql:
        tx.connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = tx.connection.exec_driver_sql(f"EXPLAIN {statement}", given).scalars().all()
        return [line for line in plan if re.search(r"Seq Scan on (runs|deliveries|attempts|events)", line)]
    plan = [row[3] for row in tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)]
    return [
        line
        for line in plan
        if line.startswith("SCAN") and "COVERING INDEX" not in line and not any(name in line for name in ALLOWED)
    ]


@pytest.mark.slow
async def test_the_counts_of_a_large_database_read_indexes_only(database_url: str) -> None:
    """A row holds a run's output; a million of them are gigabytes."""
    clock = ManualClock(START)
    async with open_database(database_url, clock) as database:
        endpoint = await add_endpoint(database)
        new = [new_run(f"r{n}") for n in range(RUNS)]
        made = [
            run
            for part in in_parts(new, 1000)
            for run in await database.write(lambda tx, part=part: runs.insert_runs(tx, part))
        ]
        clock.advance(90)
        for part in in_parts(made[: RUNS // 2], 1000):
            await database.write(lambda tx, part=part: observe_all(tx, part, "succeeded"))
        await database.write(lambda tx: observe_all(tx, made[RUNS // 2 : RUNS // 2 + 7], "failed"))

        def look(tx: Tx) -> list[str]:
            return [step for statement, given in caught(tx) for step in rows_walked(tx, statement, given)]

        assert await database.read(look) == []
        counts = await database.read(count_all)
        assert counts.runs == {
            (new[0].connection, "succeeded"): RUNS // 2,
            (new[0].connection, "failed"): 7,
            (new[0].connection, "queued"): RUNS // 2 - 7,
        }
        assert counts.deliveries == {(endpoint.id, "pending"): RUNS // 2 + 7}
        (minute,) = (await database.read(lambda tx: count_minutes(tx, START))).items()
        assert minute[0] == START + timedelta(seconds=60)
        assert minute[1].settled == RUNS // 2 + 7
