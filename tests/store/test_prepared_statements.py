"""Statements sent to SQLite's driver directly give the same rows and errors as through SQLAlchemy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bridge.store import attempts, deliveries, endpoint_health, endpoints, prepared_statements, run_leases, runs
from bridge.store.database import Database
from bridge.store.tables import run_tags
from bridge.store.transaction import Tx
from tests.support.watching import add_endpoint, record, register


@pytest.fixture
def database(lone: Database) -> Database:
    return lone


async def test_rows_are_those_of_sqlalchemy(database: Database) -> None:
    shared = await add_endpoint(database, headers={"x-team": "a"})
    other = await add_endpoint(database, ordered=True)
    watched = await register(database, "r1", tags=("a", "b"), metadata={"a": [1, None]})
    await register(database, "r2")
    await record(database, watched, "succeeded")

    def compare(tx: Tx) -> int:
        soon = tx.now + timedelta(hours=1)
        owed = [row.id for row in tx.connection.execute(sa.select(deliveries.deliveries.c.id))]
        asked: list[tuple[Any, dict[str, Any]]] = [
            (deliveries.DUE_ENDPOINTS, {}),
            (endpoints.SHARED, {}),
            (endpoints.OF_RUNS, {"run_ids": [watched.id]}),
            (endpoints.LIVE_SECRETS, {"endpoints": [shared.id, other.id], "now": tx.now, "kinds": ["v1", "v1a"]}),
            (endpoint_health.READ, {"ids": [shared.id, other.id]}),
            (attempts.PRESENT, {"ids": owed}),
            (attempts.PRESENT, {"ids": []}),
            (attempts.SETTINGS, {"ids": [shared.id]}),
            (runs.VERSIONS, {"ids": [watched.id]}),
            (runs.WATCHED, {"of_connection": watched.connection, "ids": ["r1", "r2", "r3"]}),
            (run_leases.NEXT_DUE, {"of_connection": watched.connection}),
            (run_leases.NEXT_DUE, {"of_connection": "nobody"}),
            (deliveries.DUE, {"endpoint": shared.id, "of_lane": 1, "now": soon, "most": 5}),
        ]
        for statement, given in asked:
            found = prepared_statements.fetch(tx, statement, given)
            usual = prepared_statements.fetch(replace(tx, driver=None), statement, given)
            assert [tuple(row) for row in found] == [tuple(row) for row in usual]
            assert [row._fields for row in found] == [row._fields for row in usual]
        return len(asked)

    assert await database.write(compare) == 13


async def test_what_is_not_due_is_not_claimed(database: Database) -> None:
    """An instant that reached the driver as text would be later than every number."""
    run = await register(database)
    claim = {"node": "n", "connection": run.connection, "limit": 5}
    early = await database.write(lambda tx: run_leases.acquire_due(tx, until=tx.now - timedelta(days=1), **claim))
    later = await database.write(lambda tx: run_leases.acquire_due(tx, until=tx.now, **claim))
    assert (early, [each.id for each in later]) == ([], [run.id])


async def test_a_mistake_is_reported_as_sqlalchemy_shows_it_and_undoes_its_caller_only(database: Database) -> None:
    run = await register(database)
    insert = sa.insert(run_tags)

    def tag_twice(tx: Tx) -> None:
        prepared_statements.execute_many(tx, insert, [{"tag": "t", "run_id": run.id}] * 2)

    with pytest.raises(IntegrityError):
        await database.write(tag_twice)
    assert await database.read(lambda tx: tx.connection.execute(sa.select(run_tags)).all()) == []
    assert await database.write(lambda tx: runs.get_run(tx, run.id)) == run
