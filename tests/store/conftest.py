"""The store's tests run on both engines unless a file says otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from bridge.domain.clock import Clock, SystemClock
from bridge.store.database import Database


@pytest.fixture
def database(either: Database) -> Database:
    """A new database, open, once per engine."""
    return either


@pytest.fixture
async def another(postgresql_url: str) -> AsyncIterator[Callable[..., AsyncIterator[Database]]]:
    """Opens the same database once more, as another process would."""
    async with AsyncExitStack() as stack:

        async def open_again(clock: Clock | None = None, url: str = postgresql_url) -> Database:
            database = Database(url, clock or SystemClock())
            await database.open()
            stack.push_async_callback(database.close)
            return database

        yield open_again
