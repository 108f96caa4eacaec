"""Opening the database, and the two ways to use it: `read(work)` and `write(work)`.

On SQLite every write goes through the `Writer` and its single connection, and readers are `query_only` and never
checkpoint: SQLite before 3.51.3 can damage a WAL database when two connections write and checkpoint at the same
instant. On PostgreSQL each write is a transaction of its own, repeated when it conflicts with another node's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from bridge.domain.clock import Clock
from bridge.domain.encryption import Keyring
from bridge.domain.errors import BridgeError, DatabaseRefused, StoreDamaged, StoreUnavailable
from bridge.domain.ids import new_id
from bridge.store import migrate
from bridge.store.batching import GAP_S, Batcher, GroupedWrites
from bridge.store.filtering import FilterBudget, Filters, Undecided
from bridge.store.postgres import deferred_module
from bridge.store.postgres.one_statement import NeedsTransaction, NoConnection, OneStatement
from bridge.store.sqlite import database_file
from bridge.store.sqlite.reader_pool import ReaderPool
from bridge.store.sqlite.writer import CALLERS_MISTAKES, Writer, explain, unavailable, writer_engine
from bridge.store.transaction import CommitSignals, Tx

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from bridge.store.postgres import engine as postgres
    from bridge.store.postgres import notifications, suitability
else:  # the driver and SQLAlchemy's asyncio are a tenth of the memory and of the start of a daemon on SQLite
    postgres = deferred_module("bridge.store.postgres.engine")
    notifications = deferred_module("bridge.store.postgres.notifications")
    suitability = deferred_module("bridge.store.postgres.suitability")

T = TypeVar("T")
Item = TypeVar("Item")
POSTGRES_CONNECTIONS: Final = 10
DIRECT_CONNECTIONS: Final = 4  # of them: one for each kind of hot write
FAILURE_REMEMBERED_S: Final = 10.0
_TRIES: Final = 5
_NEWEST: Final = (
    "SELECT version FROM runs ORDER BY id DESC LIMIT 1",
    "SELECT type FROM events ORDER BY position DESC LIMIT 1",
    "SELECT state FROM deliveries ORDER BY id DESC LIMIT 1",
)
_NOT_OPEN: Final = "the database is not open"


class Database:
    """A database of this version's schema. `open()` it before use, `close()` it after.

    DatabaseRefused for a URL that cannot be one of ours.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        database_file.refuse_query(url)
        self.url = make_url(url)
        self.clock = clock
        self.keyring = Keyring()
        """Encrypts what is secret; stores plainly until it has keys (`keyring.use`)."""
        self.listeners: list[Callable[[CommitSignals], None]] = []
        """Called after each commit, this node's and other nodes', with what it changed."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.written_at: datetime | None = None
        """When the SQLite file was last written before it was opened, by the machine's wall clock."""
        self.has_other_nodes = False
        """Whether commits notify other nodes. `nodes_changed` is always sent."""
        self._lock: database_file.FileLock | None = None
        self._writer: Writer | None = None
        self._reader_pool: ReaderPool | None = None
        self._engine: AsyncEngine | None = None
        """PostgreSQL: all connections but the reserved and the direct ones."""
        self._reserved_engine: AsyncEngine | None = None
        self._direct: postgres.DirectConnections | None = None
        self._known: dict[str, Any] = {}
        """`Tx.cache` of transactions of one statement, which check that it still holds."""
        self._filter_thread = ThreadPoolExecutor(1, thread_name_prefix="filters")
        self._failed_at: float | None = None
        """Monotonic time of the last StoreUnavailable; None after a later write that changed something."""
        self._failed_with = ""
        self._damage: StoreDamaged | None = None
        """The first sign that the SQLite file is damaged, which it stays until it is restored."""
        self._sender_id = new_id("sender")
        """Names this node in its notifications, so that it ignores its own."""
        self._notify_sender: notifications.NotifySender | None = None

    async def open(self) -> None:
        """Open and upgrade the database. DatabaseRefused, with one sentence, when it must not be used."""
        if self.is_sqlite:
            self.written_at = database_file.last_written(self.url)
        try:
            await (self._open_sqlite() if self.is_sqlite else self._open_postgres())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Commit what is queued, then close files and connections."""
        if self._writer is not None:
            await self._writer.close()
        if self._reader_pool is not None:
            await self._reader_pool.close()
        if self._direct is not None:
            if self._notify_sender is not None:
                await self._notify_sender.close()
            self._direct.close()
        for engine in (self._engine, self._reserved_engine):
            if engine is not None:
                await engine.dispose()
        self._filter_thread.shutdown(wait=False)
        if self._lock is not None:
            self._lock.release()

    @property
    def is_available(self) -> bool:
        """Whether nothing failed in the last 10 s, or a write succeeded after the last failure; False once damaged."""
        return self.trouble is None

    @property
    def trouble(self) -> str | None:
        """Why the database is not available, and what to do; None if it is."""
        if self._lock is not None:
            try:
                self._refuse_file()
            except StoreUnavailable as error:
                return str(error)
        is_over = self._failed_at is None or self.clock.monotonic() - self._failed_at > FAILURE_REMEMBERED_S
        return None if is_over else self._failed_with

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run `work` on a consistent snapshot."""
        return await self._remember_failure(self._read(work))

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in a transaction and return its answer once it is durable.

        After StoreUnavailable a commit on PostgreSQL may have happened: only its acknowledgement was lost.
        """
        changed: list[bool] = []
        is_suspect = self._failed_at is not None
        answer = await self._remember_failure(self._write(_noting_change(work, changed) if is_suspect else work))
        if changed and changed[-1]:
            self._failed_at = None
        return answer

    def grouped(self, work: Callable[[Tx, list[Item]], list[T]]) -> GroupedWrites[Item, T]:
        """A `write` of items by `work(tx, items)`, which answers in their order and runs once for all that wait."""
        if not self.is_sqlite:
            return GroupedWrites(
                Batcher(lambda items: self.write_plain(lambda tx: work(tx, items)), gap_s=GAP_S).submit
            )

        async def write(item: Item) -> T:
            if self._failed_at is not None:
                return await self.write(lambda tx: work(tx, [item])[0])
            filters = Filters()
            try:
                try:  # three times for each event, hence not through `_decided` at once
                    return await self._opened_writer().submit_item(work, item, filters)
                except Undecided:
                    return await self._decided(lambda f: self._opened_writer().submit_item(work, item, f), filters)
            except StoreUnavailable as error:
                self._note_failure(error)
                raise

        return GroupedWrites(write)

    async def write_plain(self, work: Callable[[Tx], T]) -> T:
        """`write` of work that usually reads nothing unusual: on PostgreSQL it is tried as one statement."""
        if self.is_sqlite or self._failed_at is not None:
            return await self.write(work)
        return await self._remember_failure(self._decided(lambda filters: self._write_plain(work, filters)))

    async def write_reserved(self, work: Callable[[Tx], T], within_s: float) -> T:
        """`write` on PostgreSQL over a connection kept for it. StoreUnavailable when not done `within_s` seconds."""
        if self._reserved_engine is None:
            raise StoreUnavailable(_NOT_OPEN)
        return await self._remember_failure(self._write_postgres(self._reserved_engine, work, within_s, Filters()))

    async def write_alone(self, work: Callable[[Tx], T]) -> T:
        """`write` on SQLite in a commit that no other work shares."""
        return await self._remember_failure(self._opened_writer().submit(work, is_alone=True))

    async def wait_writer_ended(self) -> None:
        """Wait, on SQLite, until nothing can be written any more; raises what ended the writer."""
        await self._opened_writer().wait_ended()

    async def check_file(self) -> None:
        """StoreUnavailable, on SQLite, if the file was deleted, moved, replaced or damaged. Reads a little of it."""
        self._refuse_file()
        await self.read(lambda tx: [tx.connection.exec_driver_sql(query).all() for query in _NEWEST])

    def _refuse_file(self) -> None:
        assert self._lock is not None
        self._lock.check()
        if self._damage is not None:
            raise self._damage

    def notify_listener(self) -> notifications.NotifyListener:
        """A listener, not yet connected, that passes other nodes' commits to `listeners`."""
        return notifications.NotifyListener(self.url, self._receive)

    async def _read(self, work: Callable[[Tx], T]) -> T:
        if self._reader_pool is None:
            return await self._on_postgres(self._opened_engine(), work, postgres.ANSWER_S)
        try:
            return await self._reader_pool.read(
                lambda connection: work(Tx(connection, self.clock.now(), keyring=self.keyring))
            )
        except CALLERS_MISTAKES:
            raise
        except (DBAPIError, OSError) as error:
            raise _unavailable(error) from error

    async def _write(self, work: Callable[[Tx], T]) -> T:
        if self._writer is not None:
            return await self._decided(lambda filters: self._opened_writer().submit(work, filters))
        engine = self._opened_engine()
        return await self._decided(lambda filters: self._write_postgres(engine, work, postgres.ANSWER_S, filters))

    async def _decided(self, attempt: Callable[[Filters], Awaitable[T]], filters: Filters | None = None) -> T:
        """The answer of `attempt`, repeated after judging the filters that were too costly for its transaction.

        `filters`: those of a first try, which ended undecided.
        """
        filters = filters or Filters()
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Undecided):
                if not filters.is_open:  # otherwise the caller has made the first try
                    return await attempt(filters)
            while filters.is_open:
                await asyncio.get_running_loop().run_in_executor(self._filter_thread, filters.decide_next)
        filters.is_limited = False  # the work makes other events every time
        return await attempt(filters)

    async def _write_postgres(
        self, engine: AsyncEngine, work: Callable[[Tx], T], within_s: float, filters: Filters
    ) -> T:
        for _ in range(_TRIES - 1):
            try:
                return await self._on_postgres(engine, work, within_s, filters)
            except DBAPIError as error:
                if not postgres.is_conflict(error):
                    raise
        return await self._on_postgres(engine, work, within_s, filters)

    async def _write_plain(self, work: Callable[[Tx], T], filters: Filters) -> T:
        engine, statement = self._opened_engine(), OneStatement()
        now = filters.begin(self.clock.now(), FilterBudget())
        no_connection = cast("sa.Connection", NoConnection())
        tx = Tx(no_connection, now, cache=self._known, keyring=self.keyring, filters=filters, statement=statement)
        try:
            answer = _assuming(work, tx)
            filters.check()
            if await self._execute(statement):
                if self.has_other_nodes and self._notify_sender is not None:
                    self._notify_sender.add(tx.signals)
                self._announce(tx.signals)
                return answer
        except NeedsTransaction:
            pass

        def noting(tx: Tx) -> T:
            answer = work(tx)
            self._known |= tx.cache
            return answer

        return await self._write_postgres(engine, noting, postgres.ANSWER_S, filters)

    async def _execute(self, statement: OneStatement) -> bool:
        """Whether every check held and everything is written."""
        return statement.is_empty or await self._holds(*statement.compiled())

    async def _send_notification(self, payload: str) -> None:
        await self._holds(notifications.NOTIFY_AFTER, [payload])

    async def _holds(self, text: str, values: list[Any]) -> bool:
        """The answer of a statement that is a transaction of its own; False if it conflicted with another one."""
        if self._direct is None:
            raise StoreUnavailable(_NOT_OPEN)
        try:
            return bool(await self._direct.fetch_value(text, values))
        except postgres.PostgresError as error:
            if postgres.is_gone(error):
                raise _unavailable(error) from error
            if postgres.is_conflict(error):
                return False
            raise
        except postgres.GONE as error:
            raise _unavailable(error) from error

    async def _on_postgres(
        self, engine: AsyncEngine, work: Callable[[Tx], T], within_s: float, filters: Filters | None = None
    ) -> T:
        """Run `work` in a transaction; without `filters` it reads a snapshot."""
        signals = CommitSignals()
        is_snapshot = filters is None

        def run(connection: sa.Connection) -> T:
            tx = Tx(connection, self.clock.now(), signals, keyring=self.keyring)
            if filters is not None:
                tx.filters, tx.now = filters, filters.begin(tx.now, FilterBudget())
            answer = work(tx)
            tx.filters.check()
            if self.has_other_nodes or signals.nodes_changed:
                notifications.notify(tx, self._sender_id)
            return answer

        try:
            async with postgres.transaction(engine, within_s, is_snapshot=is_snapshot) as connection:
                answer = await connection.run_sync(run)
        except DBAPIError as error:
            if postgres.is_gone(error):
                raise _unavailable(error) from error
            raise
        except postgres.GONE as error:
            raise _unavailable(error) from error
        self._announce(signals)
        return answer

    def _opened_writer(self) -> Writer:
        if self._writer is None:
            raise StoreUnavailable(_NOT_OPEN)
        return self._writer

    def _opened_engine(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreUnavailable(_NOT_OPEN)
        return self._engine

    async def _remember_failure(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except StoreUnavailable as error:
            self._note_failure(error)
            raise

    def _note_failure(self, error: StoreUnavailable) -> None:
        self._failed_at, self._failed_with = self.clock.monotonic(), str(error)
        if isinstance(error, StoreDamaged) and self._damage is None:
            self._damage = error

    def _receive(self, payload: str) -> None:
        sender, signals = notifications.decode(payload)
        if sender != self._sender_id:
            self._announce(signals)

    def _announce(self, signals: CommitSignals) -> None:
        for listener in self.listeners:
            listener(signals)

    async def _open_sqlite(self) -> None:
        path = database_file.path_of(self.url)
        traces = database_file.traces_of(path)
        database_file.refuse_missing(path, traces)
        self._lock = database_file.FileLock.take(path)
        await asyncio.to_thread(database_file.check, path, may_be_empty=not traces)
        engine = writer_engine(path)
        try:
            await asyncio.to_thread(_migrate, engine)
        except DBAPIError as error:
            engine.dispose()
            raise DatabaseRefused(f"{path}: {explain(error)}") from error
        self._lock.take_file()
        self._reader_pool = ReaderPool(path, self._lock.check)
        self._writer = Writer(engine, self.clock, self.keyring, self._announce, self._lock.check)
        self._writer.open()

    async def _open_postgres(self) -> None:
        self._engine = postgres.open_engine(self.url, POSTGRES_CONNECTIONS - DIRECT_CONNECTIONS - 1)
        self._direct = postgres.DirectConnections(self.url, DIRECT_CONNECTIONS)
        self._notify_sender = notifications.NotifySender(self._sender_id, self._send_notification)
        self._reserved_engine = postgres.open_engine(self.url, 1)
        shown = self.url.render_as_string(hide_password=True)
        try:
            async with asyncio.timeout(postgres.ANSWER_S):
                await suitability.refuse_transaction_pooling(postgres.target_of(self.url))
            async with postgres.open_unlimited_engine(self.url).connect() as connection:
                await connection.run_sync(suitability.prepare)
        except (OSError, sa.exc.SQLAlchemyError, postgres.PostgresError, postgres.DriverError) as error:
            missing = suitability.missing_file(self.url) if isinstance(error, FileNotFoundError) else None
            raise DatabaseRefused(f"cannot use the database {shown}: {missing or postgres.reason_of(error)}") from error


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        migrate.upgrade(connection)


def _noting_change(work: Callable[[Tx], T], changed: list[bool]) -> Callable[[Tx], T]:
    """`work`, appending to `changed` whether it changed anything."""

    def do(tx: Tx) -> T:
        count = "SELECT txid_current_if_assigned()" if tx.is_postgresql else "SELECT total_changes()"
        before = tx.connection.exec_driver_sql(count).scalar()
        answer = work(tx)
        changed.append(tx.connection.exec_driver_sql(count).scalar() != before)
        return answer

    return do


def _assuming(work: Callable[[Tx], T], tx: Tx) -> T:
    """The answer of work that reads nothing yet. NeedsTransaction also for its error, which may rest on an assumption.

    A run that is assumed not to be watched would be answered with NotFound.
    """
    try:
        return work(tx)
    except BridgeError as error:
        raise NeedsTransaction from error


def _unavailable(error: BaseException) -> StoreUnavailable:
    if isinstance(error, DBAPIError) and not postgres.is_full(error):
        return unavailable(error)
    return StoreUnavailable(f"the database cannot be reached: {postgres.reason_of(error)}")
