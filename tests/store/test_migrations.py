"""The steps of the schema lead exactly to the tables of the code, on both engines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from bridge.domain.clock import SystemClock
from bridge.domain.errors import DatabaseRefused
from bridge.store import attempts, deliveries, events, migrate, run_lists, runs
from bridge.store.database import Database
from bridge.store.deliveries import DeliveryFilter
from bridge.store.postgres.engine import open_unlimited_engine
from bridge.store.run_lists import RunFilter
from bridge.store.sqlite.database_file import path_of
from bridge.store.sqlite.writer import writer_engine
from bridge.store.tables import metadata
from bridge.store.transaction import Tx
from tests.support.waiting import until
from tests.support.watching import open_database, record, register

POSTGRESQL_ONLY = "ix_runs_provider_id"


def differences(tx: Tx) -> list[object]:
    options: dict[str, Any] = {"version_table": migrate.OWN_VERSION_TABLE}
    if not tx.is_postgresql:
        options = {"include_object": lambda _object, name, *_more: name != POSTGRESQL_ONLY}
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


async def test_tables_of_small_rows_need_no_index_of_their_key(tmp_path: Path) -> None:
    wanted = {name for name, table in metadata.tables.items() if not table.dialect_options["sqlite"]["with_rowid"]}
    async with open_database(f"sqlite:///{tmp_path}/runbridge.db") as database:
        query = sa.text("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%WITHOUT ROWID%'")
        assert await database.read(lambda tx: set(tx.connection.scalars(query))) == wanted


def shape(connection: sa.Connection) -> dict[str, object]:
    """Each table's columns with type, default and key, and its indexes with their columns and text."""

    def pragma(name: str, of: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in connection.exec_driver_sql(f"PRAGMA {name}({of})")]

    found: dict[str, object] = {}
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    for table, text in connection.exec_driver_sql(query).all():
        keywords = [word for word in ("AUTOINCREMENT", "WITHOUT ROWID") if word in text]
        indexes = [
            (re.sub(r"_\d+$", "", name), rest, pragma("index_xinfo", name), condition(connection, name))
            for _, name, *rest in pragma("index_list", table)
        ]
        found[table] = pragma("table_xinfo", table), keywords, sorted(indexes, key=str)
    return found


def condition(connection: sa.Connection, index: str) -> str:
    query = sa.text("SELECT coalesce(sql, '') FROM sqlite_master WHERE name = :name")
    return str(connection.scalar(query, {"name": index})).partition(" WHERE ")[2]


def test_a_new_file_has_the_schema_that_the_steps_lead_to(tmp_path: Path) -> None:
    shapes = []
    for name, begin in (("new", migrate.upgrade), ("stepped", lambda connection: step_to(connection, "head"))):
        engine = writer_engine(tmp_path / f"{name}.db")
        with engine.connect() as connection:
            begin(connection)
            shapes.append(shape(connection))
            assert migrate.revision_of(connection) == migrate.HEAD
        engine.dispose()
    assert shapes[0] == shapes[1]


def test_the_steps_follow_each_other() -> None:
    found = ScriptDirectory.from_config(migrate.alembic_config()).walk_revisions()
    assert [step.revision for step in found][::-1] == migrate.pending(None)


OLD_ROWS = """
INSERT INTO runs (id, connection, provider, provider_run_id, status, output_truncated, registered_at, status_since, metadata,
  tags, deadline_is_fixed, version, sequence, has_started, is_paused, is_overdue, polls, next_poll_at, failure_streak,
  not_found_count, leased_by)
VALUES ('run_1', 'dify-prod', 'dify', 'abc', 'running', false, 1, 1, '{}', '[]', false, 3, 1, true, false, false, 2, 5, 0, 0, 'gone');
INSERT INTO transitions (id, run_id, at, from_status, to_status)
VALUES (3, 'run_1', 1, 'queued', 'waiting'), (4, 'run_1', 2, 'waiting', 'running');
INSERT INTO events (id, type, run_id, sequence, created_at, body)
VALUES ('evt_1', 'run.started', 'run_1', 1, 2, '{}');
INSERT INTO deliveries (id, event_id, event_type, endpoint_id, run_id, sequence, state, lane, attempts, failures, is_manual,
  created_at, next_attempt_at, leased_by)
VALUES ('dlv_1', 'evt_1', 'run.started', 'ep_1', 'run_1', 1, 'pending', 0, 1, 1, false, 2, 2, 'gone'),
  ('dlv_2', 'evt_1', 'run.started', 'ep_2', 'run_1', 1, 'delivered', 0, 1, 0, false, 2, NULL, NULL);
INSERT INTO attempts (id, delivery_id, number, at, outcome, status, duration_ms, head, head_is_truncated, is_manual)
VALUES ('att_1', 'dlv_1', 1, 3, 'server_error', 500, 7, NULL, false, false)
"""
"""What the first schema held: a run in flight, a delivery that a node leased, one that arrived, an attempt."""


def step_to(connection: sa.Connection, revision: str) -> None:
    config = migrate.alembic_config()
    config.attributes |= {"connection": connection, "version_table": "alembic_version"}
    alembic.command.upgrade(config, revision)


def begin_as_first_version(connection: sa.Connection) -> None:
    with connection.begin():
        step_to(connection, "0001")
        for statement in OLD_ROWS.split(";"):
            connection.exec_driver_sql(statement)


async def test_a_database_of_the_first_version_keeps_its_rows_and_goes_on(database_url: str) -> None:
    """A transition that was numbered through all runs has the number of the run's next version.

    The end of such a run could not be recorded: it was polled for ever.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        engine = writer_engine(path_of(url))
        with engine.connect() as connection:
            begin_as_first_version(connection)
        engine.dispose()
    else:
        async with open_unlimited_engine(url).connect() as connection:
            await connection.run_sync(begin_as_first_version)
    async with open_database(database_url) as database:
        assert [each for each in await database.read(differences) if "alembic_version" not in str(each)] == []
        run = await database.read(lambda tx: runs.get_run(tx, "run_1"))
        assert run is not None
        await record(database, run, "succeeded")
        steps = await database.read(lambda tx: runs.list_transitions(tx, "run_1"))
        assert [step.to_status for step in steps] == ["waiting", "running", "succeeded"]
        kept = await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=9, before=None))
        assert [(one.id, one.state, one.attempts) for one in kept] == [
            ("dlv_2", "delivered", 1),
            ("dlv_1", "pending", 1),
        ]
        found = await database.read(lambda tx: attempts.list_attempts(tx, ["dlv_1"]))
        assert [(one.id, one.answer.status) for one in found["dlv_1"]] == [("att_1", 500)]
        new = await database.read(lambda tx: events.list_feed(tx, after=1, limit=9))
        assert [event.type for event in new] == ["run.finished"]


async def test_a_second_start_has_nothing_to_do(database_url: str) -> None:
    for _ in range(2):
        database = Database(database_url, SystemClock())
        await database.open()
        assert await database.read(differences) == []
        await database.close()


async def test_runs_from_before_their_metadata_was_indexed_are_found_by_it(database_url: str) -> None:
    def go_back(tx: Tx) -> None:
        table = migrate.OWN_VERSION_TABLE if tx.is_postgresql else "alembic_version"
        for step in (
            "DROP TABLE run_metadata",
            "DROP INDEX ix_runs_former",
            "ALTER TABLE runs DROP COLUMN trace_context",
            "ALTER TABLE endpoints DROP COLUMN trace_context",
            "DROP INDEX ix_events_rare",
            "DROP TABLE kept_counts",
            "DROP TABLE endpoint_changes",
            "DROP INDEX ix_runs_failing",
            "ALTER TABLE nodes DROP COLUMN clock_zero_at",
            "ALTER TABLE runs DROP COLUMN link",
            f"UPDATE {table} SET version_num = '0010'",
        ):
            tx.connection.execute(sa.text(step))
        tx.connection.execute(sa.text("DROP INDEX IF EXISTS ix_runs_provider_id"))

    async with open_database(database_url) as database:
        found = await register(database, "a", metadata={"order": "A-1", "n": 5})
        await register(database, "b")
        await database.write(go_back)
    database = Database(database_url, SystemClock())
    await database.open()
    try:
        for wanted in ({"order": "A-1"}, {"n": "5", "order": "A-1"}):
            listed = await database.read(
                lambda tx, w=wanted: run_lists.list_runs(tx, RunFilter(metadata=w), limit=9, before=None)
            )
            assert [run.id for run in listed] == [found.id]
        assert await database.read(differences) == []
    finally:
        await database.close()


def begin_at(revision: str) -> Callable[[sa.Connection], None]:
    def begin(connection: sa.Connection) -> None:
        with connection.begin():
            step_to(connection, revision)

    return begin


async def test_a_step_that_builds_an_index_holds_no_lock_of_the_step_before(postgresql_url: str) -> None:
    """Registrations waited for the index of all events, because the same transaction had added a column to `runs`."""
    url = make_url(postgresql_url)
    async with open_unlimited_engine(url).connect() as connection:
        await connection.run_sync(begin_at("0011"))
    other, another = (open_unlimited_engine(url) for _ in range(2))
    async with other.connect() as writer, another.connect() as beside:
        await writer.execute(sa.text("INSERT INTO events (id, type, created_at, body) VALUES ('evt_1', 'x', 1, '{}')"))
        database = Database(postgresql_url, SystemClock())
        opening = asyncio.create_task(database.open())

        async def waits() -> bool:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass"
            return bool(await beside.scalar(sa.text(waiting)))

        await until(waits, what="the index waits for the writer")
        assert await beside.run_sync(migrate.revision_of) == "0013"
        await beside.execute(sa.text("LOCK TABLE runs, endpoints IN ROW EXCLUSIVE MODE NOWAIT"))
        await beside.rollback()
        await writer.commit()
        await opening
        try:
            assert await database.read(lambda tx: migrate.revision_of(tx.connection)) == migrate.HEAD
        finally:
            await database.close()


async def test_an_upgrade_that_ends_between_two_steps_goes_on_at_the_next_start(postgresql_url: str) -> None:
    url = make_url(postgresql_url)
    in_the_way = sa.text("CREATE INDEX ix_events_rare ON events (type)")
    async with open_unlimited_engine(url).connect() as connection:
        await connection.run_sync(begin_at("0011"))
        await connection.execute(in_the_way)
        await connection.commit()
        with pytest.raises(DatabaseRefused, match="ix_events_rare"):
            await Database(postgresql_url, SystemClock()).open()
        assert await connection.run_sync(migrate.revision_of) == "0013"
        await connection.execute(sa.text("DROP INDEX ix_events_rare"))
        await connection.commit()
    async with open_database(postgresql_url) as database:
        assert [each for each in await database.read(differences) if "alembic_version" not in str(each)] == []
