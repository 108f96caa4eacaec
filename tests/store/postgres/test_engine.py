"""Transactions on PostgreSQL end in time."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import make_url

from bridge.store.postgres import engine as postgres
from bridge.store.postgres.engine import STANDSTILL_S, TRANSACTION_S
from tests.support.waiting import until


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
    """It stands still in the middle of a transaction, and nobody else could record an event."""
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
