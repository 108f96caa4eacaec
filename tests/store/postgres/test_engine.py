"""Transactions on PostgreSQL end in time, and statements wait for their connection."""

from __future__ import annotations

import asyncio
import os

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from bridge.store.postgres import engine as postgres
from bridge.store.postgres.engine import STANDSTILL_S, TRANSACTION_S, DirectConnections
from tests.support.cuttable_proxy import CuttableProxy
from tests.support.waiting import until

LOCK = 4711
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_the_drivers_own_mistakes_on_a_connection_that_was_closed_at_the_limit_are_a_timeout(
    postgresql_url: str,
) -> None:
    """Closed between two steps of one call, asyncpg 0.32 fails on its own state; that was a 500 and a traceback."""
    engine = postgres.open_engine(make_url(postgresql_url), 1)
    with pytest.raises(TimeoutError):
        async with postgres.transaction(engine, 0.05) as connection:
            raw = await connection.get_raw_connection()
            await until(lambda: raw.driver_connection is not None and raw.driver_connection.is_closed())
            raise AttributeError("'NoneType' object has no attribute 'bind_execute_many'")
    async with postgres.transaction(engine) as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    await engine.dispose()


async def test_a_mistake_of_our_own_stays_one(postgresql_url: str) -> None:
    engine = postgres.open_engine(make_url(postgresql_url), 1)
    with pytest.raises(AttributeError):
        async with postgres.transaction(engine):
            raise AttributeError
    await engine.dispose()


async def test_what_a_frozen_process_holds_locked_is_freed_by_the_server(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood still in the middle of a transaction, and no other node could record an event."""
    monkeypatch.setattr(postgres, "STANDSTILL_S", STANDSTILL_S)  # tests have more time
    monkeypatch.setattr(postgres, "TRANSACTION_S", TRANSACTION_S)
    engine = postgres.open_engine(make_url(postgresql_url), 1)
    async with postgres.transaction(engine) as connection:

        async def shown(name: str) -> str:
            return str((await connection.exec_driver_sql(f"SHOW {name}")).scalar())

        assert await shown("idle_in_transaction_session_timeout") == "3s"
        if int(await shown("server_version_num")) >= 170000:
            assert await shown("transaction_timeout") == "10s"
    await engine.dispose()


async def test_a_statement_waits_for_a_free_connection(postgresql_url: str) -> None:
    direct, other = DirectConnections(make_url(postgresql_url), 1), await asyncpg.connect(postgresql_url)
    try:
        await other.execute(f"SELECT pg_advisory_lock({LOCK})")
        first = asyncio.create_task(direct.fetch_value(f"SELECT pg_advisory_xact_lock({LOCK})::text", []))
        await until(lambda: other.fetchval(WAITS))
        second = asyncio.create_task(direct.fetch_value("SELECT $1::int", [2]))
        assert await other.fetchval(CLIENTS) == 2
        assert not second.done()
        await other.execute(f"SELECT pg_advisory_unlock({LOCK})")
        assert (await first, await second) == ("", 2)
        assert await direct.fetch_value("SELECT $1::int", [3]) == 3
    finally:
        direct.close()
        await other.close()


async def test_a_connection_that_went_silent_takes_the_idle_ones_with_it(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall forgot all of them at once; each of the others would have cost another caller the whole limit."""
    monkeypatch.setattr(postgres, "ANSWER_S", 1.0)
    before, _, database = postgresql_url.rpartition("/")
    async with CuttableProxy(int(before.rpartition(":")[2])) as proxy:
        host = before.rpartition(":")[0]
        direct = DirectConnections(make_url(f"{host}:{proxy.port}/{database}"), 3)
        asked = [direct.fetch_value("SELECT pg_backend_pid() + $1::int", [0]) for _ in range(3)]
        assert len(set(await asyncio.gather(*asked))) == 3
        proxy.half_open()
        with pytest.raises((*postgres.GONE, asyncpg.PostgresError)):
            await direct.fetch_value("SELECT $1::int", [1])
        assert await direct.fetch_value("SELECT $1::int", [2]) == 2
        direct.close()


async def test_a_server_without_a_free_connection_is_named_with_what_to_do(postgresql_url: str) -> None:
    """Another program that takes them all stops everything here, and the server's sentence has no remedy."""
    admin, role = await asyncpg.connect(postgresql_url), f"crowded_{os.getpid()}"
    url = make_url(postgresql_url).set(username=role)
    await admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    direct, engine = DirectConnections(url, 1), postgres.open_engine(url, 1)
    try:
        with pytest.raises(asyncpg.PostgresError) as at_once:
            await direct.fetch_value("SELECT 1", [])
        with pytest.raises((asyncpg.PostgresError, DBAPIError)) as in_transaction:
            async with postgres.transaction(engine):
                pass
    finally:
        await engine.dispose()
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()
    for caught in (at_once, in_transaction):
        assert postgres.is_gone(caught.value)
        said = postgres.reason_of(caught.value)
        assert "too many connections for role" in said
        assert "raise max_connections of PostgreSQL or the limit of the role" in said


def test_a_connection_that_broke_under_its_last_statement_is_no_fault_of_ours() -> None:
    """asyncpg says `cannot switch to state 11; another operation (2) is in progress` then; that was a 500."""
    error = asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
    assert isinstance(error, postgres.GONE)
    assert postgres.reason_of(error) == "the connection broke"
