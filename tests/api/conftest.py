"""The API under test: on both engines (`api`), or on SQLite alone where the database does not matter (`sqlite_api`)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.api_bridge import Api, serve_api


@pytest_asyncio.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    """The API, once per engine."""
    async with serve_api(database_url) as served:
        yield served


@pytest_asyncio.fixture
async def sqlite_api(sqlite_url: str) -> AsyncIterator[Api]:
    """The API on SQLite."""
    async with serve_api(sqlite_url) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One API on SQLite for a module whose tests change nothing."""
    async with serve_api(f"sqlite:///{tmp_path_factory.mktemp('api') / 'runbridge.db'}") as served:
        yield served
