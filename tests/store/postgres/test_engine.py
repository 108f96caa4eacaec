"""Transactions on PostgreSQL end in time."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import make_url

from bridge.store.postgres import engine as postgres
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
