"""Reads of SQLite: connections that cannot write and never checkpoint, on threads of their own.

A read is one hop to a thread and one back, however many statements it has. An asyncio driver takes up to four hops per
statement, and each waits for its turn in a busy event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL

from bridge.domain.errors import StoreUnavailable
from bridge.store.sqlite.database_file import SERVING_BUSY_TIMEOUT_S

T = TypeVar("T")
READERS: Final = 4


class ReaderPool:
    """Runs up to READERS reads at once; further ones wait."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        self._check = check
        self._engine = sa.create_engine(
            URL.create("sqlite", database=str(path)),
            pool_size=READERS,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
        sa.event.listen(self._engine, "connect", _set_up)
        sa.event.listen(self._engine, "begin", _begin)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._of_thread = threading.local()
        self._connections: list[sa.Connection] = []
        self._is_closed = False

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` on a consistent snapshot. StoreUnavailable if the file is no longer there."""
        if self._is_closed:
            raise StoreUnavailable("the database is not open")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        self._check()
        connection: sa.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:  # kept by its thread: to borrow it from a pool each time takes a tenth of a short read
            connection = self._of_thread.connection = self._engine.connect()
            self._connections.append(connection)
        with connection.begin():
            return work(connection)

    async def close(self) -> None:
        """Finish the reads that have begun, then disconnect."""
        self._is_closed = True
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()
        self._engine.dispose()


def _set_up(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(SERVING_BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA query_only=ON")
    cursor.execute("PRAGMA wal_autocheckpoint=0")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction that sees the moment of its first statement until it ends."""
    connection.exec_driver_sql("BEGIN")
