"""Opening the database, and the two doors to it: `read(fn)` and `write(fn)`.

On SQLite every write goes over the write desk and its single connection; readers are `query_only` and
never checkpoint, because SQLite before 3.51.3 can damage a WAL database when two connections write and
checkpoint at the same instant. On PostgreSQL each write is a transaction of its own, tried again when
two nodes stood in each other's way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from bridge.domain.clock import Clock
from bridge.domain.encryption import Keyring
from bridge.domain.errors import DatabaseRefused, StoreUnavailable
from bridge.domain.ids import new_id
from bridge.store import migrate
from bridge.store.postgres import engine as postgresql
from bridge.store.postgres import notifications
from bridge.store.sqlite import database_file
from bridge.store.sqlite.reader_pool import ReaderPool
from bridge.store.sqlite.writer import Writer, explain
from bridge.store.transaction import CommitSignals, Tx

T = TypeVar("T")
POSTGRESQL_CONNECTIONS = 10
FAILURE_REMEMBERED_S = 10.0
_TRIES = 5


class Database:
    """An open database of the right version. Close it with `close()`."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = make_url(url)
        self.clock = clock
        self.keyring = Keyring()
        """Seals the secrets; plain until it is given keys (`vault.use`)."""
        self.listeners: list[Callable[[CommitSignals], None]] = []
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._lock: database_file.LockFile | None = None
        self._desk: Writer | None = None
        self._readers: ReaderPool | None = None
        self._pool: AsyncEngine | None = None
        """PostgreSQL: every connection but one."""
        self._apart: AsyncEngine | None = None
        """PostgreSQL: a connection for what must not wait behind other work."""
        self._failed_at: float | None = None
        """Monotonic, of the latest StoreUnavailable; None again after a write that changed something."""
        self.has_other_nodes = False
        """Whether there are other nodes to tell what a commit announces."""
        self._voice = new_id("voice")
        """The sender of our notices, so that we do not listen to ourselves."""

    async def open(self) -> None:
        """Open and bring up to date; DatabaseRefused with one sentence when it is not ours to open."""
        try:
            await (self._open_sqlite() if self.is_sqlite else self._open_postgresql())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Commit what is queued and let go of files and connections."""
        if self._desk is not None:
            await self._desk.close()
        if self._readers is not None:
            await self._readers.close()
        for engine in (self._pool, self._apart):
            if engine is not None:
                await engine.dispose()
        if self._lock is not None:
            self._lock.release()

    @property
    def is_available(self) -> bool:
        """Whether nothing failed in the last 10 s, or something was written since."""
        return self._failed_at is None or self.clock.monotonic() - self._failed_at > FAILURE_REMEMBERED_S

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run `work` on a consistent snapshot."""
        return await self._noting(self._read(work))

    async def _read(self, work: Callable[[Tx], T]) -> T:
        if self._readers is None:
            return await self._on_postgresql(self._engine(), work, postgresql.ANSWER_S, is_snapshot=True)
        try:
            return await self._readers.read(lambda sync: work(Tx(sync, self.clock.now(), keyring=self.keyring)))
        except (OperationalError, InterfaceError, OSError) as error:
            raise _unavailable(error) from error

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in a transaction; its answer is durable when it comes back.

        After StoreUnavailable a commit on PostgreSQL may have happened all the same: its answer was lost.
        """
        changed: list[bool] = []
        answer = await self._noting(self._write(work if self._failed_at is None else _telling_change(work, changed)))
        if changed and changed[-1]:
            self._failed_at = None
        return answer

    async def _write(self, work: Callable[[Tx], T]) -> T:
        if self._desk is not None:
            return await self._desk.submit(work)
        return await self._write_postgresql(self._engine(), work, postgresql.ANSWER_S)

    async def _noting(self, answer: Awaitable[T]) -> T:
        """The answer; that there is none is remembered for `is_available`."""
        try:
            return await answer
        except StoreUnavailable:
            self._failed_at = self.clock.monotonic()
            raise

    async def write_reserved(self, work: Callable[[Tx], T], within_s: float) -> T:
        """`write` on PostgreSQL that does not wait behind other work; StoreUnavailable if not done in time."""
        if self._apart is None:
            raise StoreUnavailable("the database is not open")
        return await self._noting(self._write_postgresql(self._apart, work, within_s))

    async def _write_postgresql(self, engine: AsyncEngine, work: Callable[[Tx], T], within_s: float) -> T:
        for _ in range(_TRIES - 1):
            try:
                return await self._on_postgresql(engine, work, within_s)
            except DBAPIError as error:
                if not postgresql.is_conflict(error):
                    raise
        return await self._on_postgresql(engine, work, within_s)

    async def _on_postgresql(
        self, engine: AsyncEngine, work: Callable[[Tx], T], within_s: float, *, is_snapshot: bool = False
    ) -> T:
        signals = CommitSignals()

        def run(sync: sa.Connection) -> T:
            tx = Tx(sync, self.clock.now(), signals, keyring=self.keyring)
            answer = work(tx)
            if self.has_other_nodes or signals.nodes_changed:
                notifications.tell_others(tx, self._voice)
            return answer

        try:
            async with postgresql.transaction(engine, within_s, is_snapshot=is_snapshot) as connection:
                answer = await connection.run_sync(run)
        except DBAPIError as error:
            if postgresql.is_gone(error):
                raise _unavailable(error) from error
            raise
        except postgresql.GONE as error:
            raise _unavailable(error) from error
        self._announce(signals)
        return answer

    def notify_listener(self) -> notifications.NotifyListener:
        """An ear for what other nodes announce, not yet open; our listeners hear it like our own."""
        return notifications.NotifyListener(self.url, self._hear)

    def _hear(self, payload: str) -> None:
        sender, signals = notifications.decode(payload)
        if sender != self._voice:
            self._announce(signals)

    def _engine(self) -> AsyncEngine:
        if self._pool is None:
            raise StoreUnavailable("the database is not open")
        return self._pool

    def _announce(self, signals: CommitSignals) -> None:
        for listener in self.listeners:
            listener(signals)

    async def _open_sqlite(self) -> None:
        path = database_file.path_of(self.url)
        is_unused = database_file.is_unused(path)
        self._lock = database_file.LockFile.take(path)
        await asyncio.to_thread(database_file.check, path, may_be_empty=is_unused)
        writer = database_file.writer_engine(path)
        try:
            await asyncio.to_thread(_migrate, writer)
        except DBAPIError as error:
            writer.dispose()
            raise DatabaseRefused(f"{path}: {explain(error)}") from error
        self._readers = ReaderPool(path)
        await self._readers.open()
        self._desk = Writer(writer, self.clock, self.keyring, self._announce)
        self._desk.open()

    async def _open_postgresql(self) -> None:
        self._pool = postgresql.open_engine(self.url, POSTGRESQL_CONNECTIONS - 1)
        self._apart = postgresql.open_engine(self.url, 1)
        shown = self.url.render_as_string(hide_password=True)
        try:
            async with postgresql.open_patient_engine(self.url).connect() as connection:
                await connection.run_sync(migrate.upgrade)
        except (DBAPIError, OSError, sa.exc.SQLAlchemyError) as error:
            raise DatabaseRefused(f"cannot use the database {shown}: {_reason(error)}") from error


def _telling_change(work: Callable[[Tx], T], changed: list[bool]) -> Callable[[Tx], T]:
    """`work`, adding to `changed` whether it changed anything."""

    def do(tx: Tx) -> T:
        count = "SELECT txid_current_if_assigned()" if tx.is_postgresql else "SELECT total_changes()"
        before = tx.connection.exec_driver_sql(count).scalar()
        answer = work(tx)
        changed.append(tx.connection.exec_driver_sql(count).scalar() != before)
        return answer

    return do


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        migrate.upgrade(connection)


def _unavailable(error: BaseException) -> StoreUnavailable:
    if isinstance(error, DBAPIError):
        return StoreUnavailable(explain(error))
    return StoreUnavailable(f"the database cannot be reached: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """What server or system say, without the words of the libraries between."""
    match error:
        case TimeoutError() | sa.exc.TimeoutError():
            return "no answer in time"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case ConnectionError():  # asyncpg's own, about calls inside it
            return "the connection broke"
        case OSError():
            return error.strerror or str(error)
        case _:
            said = error.orig if isinstance(error, DBAPIError) else error
            return next(iter(str(said).splitlines()), type(said).__name__)
