"""The only connection that writes to SQLite, the thread that owns it, and the queue before it.

SQLite has one writer. Callers queue; the thread takes all that has gathered, opens one `BEGIN IMMEDIATE` transaction,
commits once (`synchronous=FULL`), and hands the answers of the whole commit to the event loop with one wake-up. A lone
caller is served at once; what arrives during a commit shares the next one. A caller's mistake undoes only its own work,
a failing disk the whole transaction.

BEGIN, COMMIT and savepoints go to the driver directly: through SQLAlchemy they take a tenth of what recording one event
costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError, ProgrammingError

from bridge.domain.clock import Clock
from bridge.domain.encryption import Keyring
from bridge.domain.errors import StoreDamaged, StoreUnavailable
from bridge.store.filtering import FilterBudget, Filters
from bridge.store.sqlite.database_file import APPLICATION_ID, SERVING_BUSY_TIMEOUT_S
from bridge.store.transaction import CommitSignals, Tx, merged

T = TypeVar("T")

BATCH_MAX: Final = 500  # callers in one commit; keeps a commit within some tens of milliseconds
WAL_PAGES_BEFORE_CHECKPOINT: Final = 2000
CHECKED_FOR_S: Final = 0.05  # after a commit the file need not be checked again before the next one for so long
CALLERS_MISTAKES = (IntegrityError, DataError, ProgrammingError)
_STOPPING = "the daemon is stopping; try again when it runs"
_INCREMENTAL: Final = 2  # what `PRAGMA auto_vacuum` answers


@dataclass(frozen=True, slots=True)
class _Guard:
    """The statements around a piece of work, and those that undo it."""

    begin: Sequence[str]
    end: Sequence[str]
    undo: Sequence[str]


_SAVEPOINT: Final = _Guard(["SAVEPOINT caller"], ["RELEASE caller"], ["ROLLBACK TO caller", "RELEASE caller"])
_TRANSACTION: Final = _Guard([], [], ["ROLLBACK", "BEGIN IMMEDIATE"])
"""For work that has the transaction for itself: a savepoint copies each page that is written."""


@dataclass(slots=True, eq=False)
class _Job:
    """The work that one caller submits: `work(tx)`, or an item of `work(tx, items)`. The thread sets `result` or `error`."""

    work: Callable[..., Any]
    filters: Filters
    answer: asyncio.Future[Any]
    item: Any = None
    is_item: bool = False
    is_alone: bool = False
    result: Any = None
    error: BaseException | None = None

    def hand_back(self) -> None:
        """Answer the caller; on the event loop."""
        if self.answer.done():
            return
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


class Writer:
    """Commits what callers submit, in batches, over one connection held for life."""

    def __init__(
        self,
        engine: sa.Engine,
        clock: Clock,
        keyring: Keyring,
        announce: Callable[[CommitSignals], None],
        check: Callable[[], None],
    ) -> None:
        """`check` raises StoreUnavailable if the file is no longer there."""
        self._engine = engine
        self._clock = clock
        self._keyring = keyring
        self._announce = announce
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        """None, the last one, ends the thread."""
        self._is_closing = False
        self._fault: BaseException | None = None
        self._has_ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)  # `close` waits for its end
        # The rest is used by the thread only.
        self._connection: sa.Connection | None = None
        self._checked_at = -math.inf
        """The last commit went into the file that is still there; otherwise it is checked before the next, too."""
        self._next: _Job | None = None
        self._has_failed = False
        """Whether a commit failed since the last that did not."""
        self._cache: dict[str, Any] = {}
        """`Tx.cache` of every transaction: it stays valid between commits, because no other process writes."""

    def open(self) -> None:
        """Start to commit."""
        self._thread.start()

    async def close(self) -> None:
        """Commit what is queued, then disconnect."""
        self._stop()
        await self._has_ended.wait()

    async def wait_ended(self) -> None:
        """Wait until it commits no more; raises what ended it."""
        await self._has_ended.wait()
        if self._fault is not None:
            raise self._fault

    async def submit(self, work: Callable[[Tx], T], filters: Filters | None = None, *, is_alone: bool = False) -> T:
        """Run `work` in the next commit, or in one of its own, and return its answer after it.

        StoreUnavailable if the commit fails, Undecided if `filters` must be judged before it.
        """
        answer: T = await self._queue(work, filters or Filters(), is_alone=is_alone)
        return answer

    def submit_item(self, work: Callable[[Tx, list[Any]], list[T]], item: Any, filters: Filters) -> asyncio.Future[T]:
        """As `submit`, with `work` running once for the items of all callers in the commit.

        It answers in the order of the items. If it fails, it runs again for each item alone.
        """
        return self._queue(work, filters, item=item, is_item=True)

    def _queue(self, work: Callable[..., Any], filters: Filters, **how: Any) -> asyncio.Future[Any]:
        if self._is_closing:
            raise StoreUnavailable(_STOPPING)
        job = _Job(work, filters, self._loop.create_future(), **how)
        self._jobs.put(job)
        return job.answer

    def _stop(self) -> None:
        self._is_closing = True
        self._jobs.put(None)

    def _hand_back(self, batch: list[_Job], signals: CommitSignals | None) -> None:
        """Announce a commit (None: it failed) and answer its callers; on the event loop."""
        try:
            if signals is not None:
                self._announce(signals)
        except Exception as error:  # noqa: BLE001 - raised by `wait_ended`, which ends the daemon
            self._fault = error
            self._stop()
        finally:
            for job in batch:
                job.hand_back()

    # -- on the thread

    def _serve(self) -> None:
        batch: list[_Job] = []
        try:
            while batch := self._next_batch():
                signals = self._commit(batch)
                self._loop.call_soon_threadsafe(self._hand_back, batch, signals)
        except BaseException as error:  # noqa: BLE001 - raised by `wait_ended`, which ends the daemon
            self._fault = error
        self._is_closing = True
        batch += self._drain()  # a caller must not wait for an answer that never comes
        _fail(batch, StoreUnavailable(_STOPPING))
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()
        with contextlib.suppress(RuntimeError):  # the loop has ended before `close`
            self._loop.call_soon_threadsafe(self._hand_back, batch, None)
            self._loop.call_soon_threadsafe(self._has_ended.set)

    def _next_batch(self) -> list[_Job]:
        """Wait for a job and take those behind it that may share its commit; nothing at the end."""
        job, self._next = self._next or self._jobs.get(), None
        batch: list[_Job] = []
        while job is not None:
            if batch and (job.is_alone or batch[-1].is_alone or len(batch) == BATCH_MAX):
                self._next = job
                return batch
            batch.append(job)
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch
        if batch:
            self._jobs.put(None)  # to be found after this batch
        return batch

    def _drain(self) -> list[_Job]:
        """Everything that is queued."""
        jobs = [] if self._next is None else [self._next]
        self._next = None
        with contextlib.suppress(Empty):
            while (job := self._jobs.get_nowait()) is not None:
                jobs.append(job)
            self._jobs.put(None)
        return jobs

    def _commit(self, batch: list[_Job]) -> CommitSignals | None:
        """Run the jobs in one transaction; None if it failed."""
        try:
            return self._run(batch)
        except (DBAPIError, sqlite3.Error, StoreUnavailable) as error:
            self._has_failed = True
            if _is_locked(error):  # callers behind it need not wait as long for the same answer
                batch += self._drain()
            _fail(batch, error if isinstance(error, StoreUnavailable) else unavailable(error))
            return None

    def _run(self, batch: list[_Job]) -> CommitSignals:
        if time.monotonic() - self._checked_at > CHECKED_FOR_S:
            self._check()
        self._checked_at = -math.inf
        if self._connection is None:
            self._connection = self._engine.connect()
        driver = _driver_of(self._connection)
        if driver.in_transaction:  # the rollback of the last batch failed
            driver.execute("ROLLBACK")
        driver.execute("BEGIN IMMEDIATE")
        try:
            signals = self._run_groups(_grouped(batch), driver)
            driver.execute("COMMIT")
            self._check()
            self._checked_at = time.monotonic()
            signals.is_in_doubt, self._has_failed = self._has_failed, False
        except BaseException:
            self._cache.clear()
            if driver.in_transaction:  # SQLite rolls back by itself after some errors
                driver.execute("ROLLBACK")
            raise
        return signals

    def _run_groups(self, groups: list[list[_Job]], driver: sqlite3.Connection) -> CommitSignals:
        """Run each group; what fails is undone, and each of its jobs runs alone."""
        now, budget = self._clock.now(), FilterBudget()
        guard = _SAVEPOINT if len(groups) > 1 else _TRANSACTION
        done: list[CommitSignals] = []
        for jobs in groups:
            if self._run_together(jobs, self._begin(jobs, now, budget, driver), guard, done) or len(jobs) == 1:
                continue
            for job in jobs:
                self._run_together([job], self._begin([job], now, budget, driver), _SAVEPOINT, done)
        return merged(done)

    def _begin(self, jobs: list[_Job], now: datetime, budget: FilterBudget, driver: sqlite3.Connection) -> Tx:
        """The transaction of jobs with the same work."""
        assert self._connection is not None
        filters = jobs[0].filters if len(jobs) == 1 else Filters()
        return Tx(
            self._connection,
            filters.begin(now, budget),
            cache=self._cache,
            keyring=self._keyring,
            filters=filters,
            driver=driver,
        )

    def _run_together(self, jobs: list[_Job], tx: Tx, guard: _Guard, done: list[CommitSignals]) -> bool:
        """Run jobs with the same work. False if they failed: what they did is undone, and `error` says why."""
        assert tx.driver is not None
        for statement in guard.begin:
            tx.driver.execute(statement)
        try:
            work = jobs[0].work
            results = work(tx, [job.item for job in jobs]) if jobs[0].is_item else [work(tx)]
            answered = list(zip(jobs, results, strict=True))
            tx.filters.check()
            for statement in guard.end:
                tx.driver.execute(statement)
        except Exception as error:  # returned to the callers that caused it
            if isinstance(error, (DatabaseError, sqlite3.Error)) and not isinstance(error, CALLERS_MISTAKES):
                raise  # the disk or a lock: the whole transaction fails
            for statement in guard.undo:
                tx.driver.execute(statement)
            tx.cache.clear()
            _fail(jobs, error)
            return False
        for job, result in answered:
            job.result, job.error = result, None
        done.append(tx.signals)
        return True


def _grouped(batch: Iterable[_Job]) -> list[list[_Job]]:
    """Items of the same work together, all else alone, in order of arrival; jobs whose caller is gone are left out.

    An item that comes again with verdicts on its filters goes alone: they are about the event of its first try.
    """
    groups: dict[object, list[_Job]] = {}
    for job in batch:
        if not job.answer.cancelled():
            groups.setdefault(job.work if job.is_item and job.filters.now is None else job, []).append(job)
    return list(groups.values())


def _fail(jobs: Iterable[_Job], error: BaseException) -> None:
    for job in jobs:
        job.error = error


def _is_locked(error: Exception) -> bool:
    return "database is locked" in str(error)


def writer_engine(path: Path) -> sa.Engine:
    """An engine of one connection, the one that writes and checkpoints; each transaction is `BEGIN IMMEDIATE`."""
    engine = sa.create_engine(
        URL.create("sqlite", database=str(path)), pool_size=1, max_overflow=0, connect_args={"check_same_thread": False}
    )
    sa.event.listen(engine, "connect", _set_up)
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _set_up(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN is deferred
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(SERVING_BUSY_TIMEOUT_S * 1000)}")
    # Setting what is already set would write, and a database newer than the code must stay as it is.
    if cursor.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file; before WAL, which writes its first page
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA temp_store=MEMORY")  # otherwise each savepoint that is written in makes a file on disk
    cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES_BEFORE_CHECKPOINT}")
    if cursor.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        cursor.execute(f"PRAGMA application_id={APPLICATION_ID}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    if not _driver_of(connection).in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _driver_of(connection: sa.Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def unavailable(error: DBAPIError | sqlite3.Error) -> StoreUnavailable:
    """The error for callers; StoreDamaged if the file itself is at fault."""
    code = getattr(_cause_of(error), "sqlite_errorcode", None) or 0
    is_damaged = code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return (StoreDamaged if is_damaged else StoreUnavailable)(explain(error))


def _cause_of(error: DBAPIError | sqlite3.Error) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def explain(error: DBAPIError | sqlite3.Error) -> str:
    """One sentence for a person about a database that cannot be used now."""
    text = str(_cause_of(error)).strip().splitlines()[0]
    for sign, sentence in _SENTENCES.items():
        if sign in text.lower():
            return f"{sentence} ({text})"
    return f"the database cannot be used at the moment: {text}"


_SENTENCES = {
    "disk is full": "the disk that holds the database is full; free some space, nothing was lost",
    "disk i/o error": "the disk that holds the database fails or is full; free some space or check it",
    "database is locked": "another program holds the database locked; close it",
    "read-only transaction": "PostgreSQL takes no writes there, as on a standby; name the primary in [database] url",
    "readonly": "the database file is read-only; give the daemon's user write permission",
    "another operation": "the connection to the database broke; a new one is made",
    "not a database": "the database file is damaged or was replaced; stop the daemon and restore the last backup",
    "no such table": "the database file was cut off or changed by another program; stop the daemon and restore the last backup",
    "malformed": "the database file is damaged; stop the daemon and restore the last backup",
}
