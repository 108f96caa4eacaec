"""The steps of the schema lead exactly to the tables of the code, on both engines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bridge.domain.clock import SystemClock
from bridge.store import migrate
from bridge.store.database import Database
from bridge.store.tables import metadata
from bridge.store.transaction import Tx
from tests.support.watching import open_database


def differences(tx: Tx) -> list[object]:
    options = {"version_table": migrate.OWN_VERSION_TABLE} if tx.is_postgresql else {}
    return list(compare_metadata(MigrationContext.configure(tx.connection, opts=options), metadata))


def indexes(tx: Tx) -> dict[str, str]:
    """Every index of ours with its condition, which the comparison above does not look at."""
    if tx.is_postgresql:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    else:
        query = "SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type = 'index'"
    return {row[0]: row[1] for row in tx.connection.execute(sa.text(query))}


async def test_the_migrated_schema_is_that_of_the_code(database_url: str) -> None:
    async with open_database(database_url) as database:
        assert await database.read(differences) == []
        assert await database.read(lambda tx: migrate.revision_of(tx.connection)) == migrate.HEAD


async def test_partial_indexes_keep_their_conditions(database_url: str) -> None:
    """A due index over every row ever would grow for ever."""
    partial = {
        str(index.name)
        for table in metadata.tables.values()
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    }
    async with open_database(database_url) as database:
        found = await database.read(indexes)
    assert partial
    assert {name for name in partial if "WHERE" in found[name].upper()} == partial


async def test_a_second_start_has_nothing_to_do(database_url: str) -> None:
    for _ in range(2):
        database = Database(database_url, SystemClock())
        await database.open()
        assert await database.read(differences) == []
        await database.close()
