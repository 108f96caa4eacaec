"""Dead rows: PostgreSQL removes them from the indexes of what is due, however large a table is."""

from __future__ import annotations

import asyncpg
import pytest
import sqlalchemy as sa

from bridge.store import run_leases, runs
from bridge.store.transaction import Tx
from tests.support.watching import new_run, open_database

ROWS = 600  # about four on a page


def settings_of(tx: Tx, table: str) -> set[str]:
    query = sa.text("SELECT unnest(reloptions) FROM pg_class WHERE relname = :table")
    return set(tx.connection.execute(query, {"table": table}).scalars())


@pytest.mark.parametrize("table", ["runs", "deliveries"])
async def test_dead_rows_are_removed_after_some_thousands_or_a_hundredth(postgresql_url: str, table: str) -> None:
    """A claim passes all dead entries before the first that is due, and by default a fifth of the table may be dead."""
    async with open_database(postgresql_url) as database:
        found = await database.read(lambda tx: settings_of(tx, table))
    assert {"autovacuum_vacuum_threshold=20000", "autovacuum_vacuum_scale_factor=0.01"} <= found


async def test_an_index_loses_its_dead_entries_although_few_pages_of_the_table_have_any(postgresql_url: str) -> None:
    """By default PostgreSQL leaves them there while fewer than two of a hundred pages have a dead row."""
    said: list[str] = []
    async with open_database(postgresql_url) as database:
        new = [new_run(f"r{number}", metadata={"long": "x" * 1_400}) for number in range(ROWS)]
        watched = await database.write(lambda tx: runs.insert_runs(tx, new))
        await database.write(lambda tx: run_leases.request_poll(tx, watched[0].id))
    connection = await asyncpg.connect(postgresql_url)
    try:
        pages = await connection.fetchval("SELECT pg_relation_size('runs') / current_setting('block_size')::int")
        connection.add_log_listener(lambda _connection, message: said.append(message.message))
        await connection.execute("VACUUM (VERBOSE) runs")
    finally:
        await connection.close()
    assert pages > 100, "one dead row is on less than two of a hundred pages"
    assert "index scan needed" in " ".join(said)
