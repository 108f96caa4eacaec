"""The only connection that writes to SQLite, and the queue before it.

SQLite has one writer. Callers queue; the writer takes what has gathered, opens one `BEGIN IMMEDIATE` transaction, runs
each caller's function in a savepoint of its own, commits once (`synchronous=FULL`) and answers each caller after the
commit. A caller's mistake undoes only its own savepoint; a failing disk undoes the whole transaction.

A batch is one hop to the writer's thread and one back. BEGIN, COMMIT and savepoints go to the driver directly: through
SQLAlchemy they take a tenth of what recording one event costs.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError, ProgrammingError

from bridge.domain.clock import Clock
from bridge.domain.encryption import Keyring
from bridge.domain.errors import StoreUnavailable
from bridge.store.filtering import FilterBudget, Filters
from bridge.store.sqlite.database_file import APPLICATION_ID, SERVING_BUSY_TIMEOUT_S
from bridge.store.transaction import CommitSignals, Tx

T = TypeVar("T")

BATCH_MAX: Final = 500  # callers in one commit; keeps a commit within some tens of milliseconds
WAL_PAGES_BEFORE_CHECKPOINT: Final = 2000
CALLERS_MISTAKES = (IntegrityError, DataError, ProgrammingError)
_SAVEPOINT, _RELEASE, _UNDO = "SAVEPOINT caller", "RELEASE caller", "ROLLBACK TO caller"
_STOPPING = "the daemon is stopping; try again when it runs"
_INCREMENTAL: Final = 2  # what `PRAGMA auto_vacuum` answers


@dataclass(slots=True)
class _Job:
    work: Callable[[Tx], Any]
    filters: Filters
    answer: asyncio.Future[Any]
    is_alone: bool = False


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
        self._connection: sa.Connection | None = None
        """Opened and used by the writer's thread only."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._clock = clock
        self._keyring = keyring
        self._announce = announce
        self._check = check
        self._cache: dict[str, Any] = {}
        """`Tx.cache` of every transaction: it stays valid between commits, because no other process writes."""
        self._jobs: deque[_Job] = deque()
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False

    def open(self) -> None:
        """Start to commit."""
        self._task = asyncio.create_task(self._serve(), name="writer")

    async def close(self) -> None:
        """Commit what is queued, then disconnect."""
        self._is_closing = True
        self._bell.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def wait_ended(self) -> None:
        """Wait until it commits no more; raises what ended it."""
        assert self._task is not None
        await asyncio.wait([self._task])
        self._task.result()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    async def submit(self, work: Callable[[Tx], T], filters: Filters | None = None, *, is_alone: bool = False) -> T:
        """Run `work` in the next commit, or in one of its own, and return its answer after it.

        StoreUnavailable if the commit fails, Undecided if `filters` must be judged before it.
        """
        if self._is_closing:
            raise StoreUnavailable(_STOPPING)
        job = _Job(work, filters or Filters(), asyncio.get_running_loop().create_future(), is_alone)
        self._jobs.append(job)
        self._bell.set()
        answer: T = await job.answer
        return answer

    async def _serve(self) -> None:
        try:
            while True:
                await self._bell.wait()
                self._bell.clear()
                while self._jobs:
                    await self._commit(self._next_batch())
                if self._is_closing:
                    return
        finally:  # also when the task is cancelled: a caller must not wait for an answer that never comes
            self._is_closing = True
            for job in self._jobs:
                _fail(job, StoreUnavailable(_STOPPING))

    def _next_batch(self) -> list[_Job]:
        batch = [self._jobs.popleft()]
        while self._jobs and len(batch) < BATCH_MAX and not (batch[-1].is_alone or self._jobs[0].is_alone):
            batch.append(self._jobs.popleft())
        return batch

    async def _commit(self, batch: list[_Job]) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers, signals = await loop.run_in_executor(self._thread, self._run, batch)
        except (DBAPIError, sqlite3.Error, StoreUnavailable) as error:
            if _is_locked(error):  # callers behind it need not wait as long for the same answer
                batch += self._jobs
                self._jobs.clear()
            reason = error if isinstance(error, StoreUnavailable) else StoreUnavailable(explain(error))
            for job in batch:
                _fail(job, reason)
            return
        except asyncio.CancelledError:
            for job in batch:
                _fail(job, StoreUnavailable(_STOPPING))
            raise
        self._announce(signals)
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                _fail(job, answer)
            elif not job.answer.done():
                job.answer.set_result(answer)

    def _run(self, batch: list[_Job]) -> tuple[list[Any], CommitSignals]:
        self._check()
        if self._connection is None:
            self._connection = self._engine.connect()
        connection, driver = self._connection, _driver_of(self._connection)
        if driver.in_transaction:  # the rollback of the last batch failed
            driver.execute("ROLLBACK")
        driver.execute("BEGIN IMMEDIATE")
        try:
            now, signals, budget = self._clock.now(), CommitSignals(), FilterBudget()
            answers = []
            for job in batch:
                tx = Tx(
                    connection,
                    job.filters.begin(now, budget),
                    cache=self._cache,
                    keyring=self._keyring,
                    filters=job.filters,
                    driver=driver,
                )
                answers.append(self._run_one(driver, job, tx, signals))
            driver.execute("COMMIT")
            self._check()
        except BaseException:
            self._cache.clear()
            if driver.in_transaction:  # SQLite rolls back by itself after some errors
                driver.execute("ROLLBACK")
            raise
        return answers, signals

    def _run_one(self, driver: sqlite3.Connection, job: _Job, tx: Tx, signals: CommitSignals) -> Any:
        if job.answer.cancelled():
            return None
        driver.execute(_SAVEPOINT)
        try:
            answer = job.work(tx)
            job.filters.check()
            driver.execute(_RELEASE)
        except Exception as error:  # returned to the caller that caused it
            if isinstance(error, (DatabaseError, sqlite3.Error)) and not isinstance(error, CALLERS_MISTAKES):
                raise  # the disk or a lock: the whole transaction fails
            driver.execute(_UNDO)
            tx.cache.clear()
            return error
        signals.add(tx.signals)
        return answer


def _fail(job: _Job, error: BaseException) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)


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


def explain(error: DBAPIError | sqlite3.Error) -> str:
    """One sentence for a person about a database that cannot be used now."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    text = str(cause).strip().splitlines()[0]
    for sign, sentence in _SENTENCES.items():
        if sign in text.lower():
            return f"{sentence} ({text})"
    return f"the database cannot be used at the moment: {text}"


_SENTENCES = {
    "disk is full": "the disk that holds the database is full; free some space, nothing was lost",
    "disk i/o error": "the disk that holds the database fails or is full; free some space or check it",
    "database is locked": "another program holds the database locked; close it",
    "readonly": "the database file is read-only; give the daemon's user write permission",
    "another operation": "the connection to the database broke; a new one is made",
    "not a database": "the database file is damaged or was replaced; stop the daemon and restore the last backup",
    "malformed": "the database file is damaged; stop the daemon and restore the last backup",
}
