"""The readers of SQLite: connections that cannot write and never checkpoint, each on a thread of its own.

A read, however many statements it has, is one hop to a reader's thread and one back. Over SQLAlchemy's asyncio driver
every statement was four hops (cursor, execute, fetch, close), each of which waits for the busy loop: while 20,000 runs
were looked at, a GET of one run took eight times as long.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from bridge.domain.errors import StoreUnavailable
from bridge.store.sqlite.database_file import begin_deferred, set_up_reader

T = TypeVar("T")
READERS = 4


class _Reader(aiosqlite.Connection):
    """One connection and its thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(lambda: sqlite3.connect(path), iter_chunk_size=64)
        # The engine borrows the connection and never closes it: that is for its own thread to do.
        self._engine = sa.create_engine("sqlite://", creator=lambda: self._conn, poolclass=StaticPool)
        sa.event.listen(self._engine, "connect", set_up_reader)
        sa.event.listen(self._engine, "begin", begin_deferred)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` on a consistent snapshot."""
        if not self._running:
            raise StoreUnavailable("the database is not open")
        answer: T = await self._execute(self._read, work)  # type: ignore[no-untyped-call]
        return answer

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        with self._engine.connect() as connection:
            return work(connection)


class ReaderPool:
    """As many reads at once as there are readers; others wait for the next that is free."""

    def __init__(self, path: Path) -> None:
        self._readers = [_Reader(path) for _ in range(READERS)]
        self._free: asyncio.LifoQueue[_Reader] = asyncio.LifoQueue()

    async def open(self) -> None:
        """Connect."""
        for reader in self._readers:
            await reader
            self._free.put_nowait(reader)

    async def close(self) -> None:
        """End the reads under way and disconnect."""
        for reader in self._readers:
            await reader.close()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` on a consistent snapshot."""
        reader = await self._free.get()
        try:
            return await reader.read(work)
        finally:
            self._free.put_nowait(reader)  # what it still does for somebody who left comes first
