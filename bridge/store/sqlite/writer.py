"""The write desk: the one place where SQLite is written, one transaction for whatever has gathered.

SQLite has one writer. Callers queue here; the desk opens one `BEGIN IMMEDIATE` transaction, runs each
caller's function in a savepoint of its own, commits once (`synchronous=FULL`), and answers each caller
after the commit. A caller's mistake undoes only its own savepoint; a failing disk undoes them all.

A batch is one hop to the desk's own thread and one back. Over the asyncio driver every statement was four
hops (cursor, execute, fetch, close), which cost 2 ms of CPU for one recorded transition against 0.4 ms so.
The frame of a transaction goes to the driver itself: by way of SQLAlchemy a tenth of all that a lone event
costs was spent on BEGIN, COMMIT and savepoints.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError, ProgrammingError

from bridge.domain.clock import Clock
from bridge.domain.encryption import Keyring
from bridge.domain.errors import StoreUnavailable
from bridge.store.sqlite.database_file import driver_of
from bridge.store.transaction import CommitSignals, Tx

T = TypeVar("T")

_CALLERS_MISTAKES = (IntegrityError, DataError, ProgrammingError)
_SAVEPOINT, _RELEASE, _UNDO = "SAVEPOINT caller", "RELEASE caller", "ROLLBACK TO caller"
_STOPPING = "the daemon is stopping; try again when it runs"
BATCH_MAX = 500  # callers in one commit; keeps a commit within some tens of milliseconds


@dataclass(slots=True)
class _Job:
    work: Callable[[Tx], Any]
    answer: asyncio.Future[Any]


class Writer:
    """Commits what has gathered, over one connection held for life."""

    def __init__(
        self, engine: sa.Engine, clock: Clock, keyring: Keyring, announce: Callable[[CommitSignals], None]
    ) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None
        """The one that writes, held for life by the desk's thread."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-desk")
        self._clock = clock
        self._keyring = keyring
        self._announce = announce
        self._known: dict[str, Any] = {}
        """What is known of the file from one commit to the next (`Tx.known`): nobody else writes to it."""
        self._jobs: deque[_Job] = deque()
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def open(self) -> None:
        """Start to serve."""
        self._task = asyncio.create_task(self._serve(), name="write-desk")

    async def close(self) -> None:
        """Commit what is still queued, then stop."""
        self._closing = True
        self._bell.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    async def submit(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in the next commit; its answer comes after the commit. StoreUnavailable if there is none."""
        if self._closing:
            raise StoreUnavailable(_STOPPING)
        job = _Job(work, asyncio.get_running_loop().create_future())
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
                    batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), BATCH_MAX))]
                    await self._commit(batch)
                if self._closing:
                    return
        finally:  # also where the whole loop is torn down: nobody is to wait for an answer that never comes
            self._closing = True
            for job in self._jobs:
                _fail(job, StoreUnavailable(_STOPPING))

    async def _commit(self, batch: list[_Job]) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers, signals = await loop.run_in_executor(self._thread, self._run, batch)
        except (DBAPIError, sqlite3.Error) as error:
            for job in batch:
                _fail(job, StoreUnavailable(explain(error)))
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
        if self._connection is None:
            self._connection = self._engine.connect()
        connection, driver = self._connection, driver_of(self._connection)
        if driver.in_transaction:  # even undoing the last one failed
            driver.execute("ROLLBACK")
        driver.execute("BEGIN IMMEDIATE")
        try:
            now, together, known = self._clock.now(), CommitSignals(), self._known
            answers = [
                self._run_one(
                    driver, job, Tx(connection, now, known=known, keyring=self._keyring, driver=driver), together
                )
                for job in batch
            ]
            driver.execute("COMMIT")
        except BaseException:
            self._known.clear()
            if driver.in_transaction:  # not where SQLite has undone it by itself
                driver.execute("ROLLBACK")
            raise
        return answers, together

    def _run_one(self, driver: sqlite3.Connection, job: _Job, tx: Tx, together: CommitSignals) -> Any:
        if job.answer.cancelled():
            return None
        driver.execute(_SAVEPOINT)
        try:
            answer = job.work(tx)
            driver.execute(_RELEASE)
        except Exception as error:  # handed to the caller that caused it
            if isinstance(error, (DatabaseError, sqlite3.Error)) and not isinstance(error, _CALLERS_MISTAKES):
                raise  # the disk or the lock, not this caller: the whole transaction goes
            driver.execute(_UNDO)
            tx.known.clear()
            return error
        together.add(tx.signals)
        return answer


def _fail(job: _Job, error: BaseException) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)


def explain(error: DBAPIError | sqlite3.Error) -> str:
    """One sentence for a person about a database that cannot be used now."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    text = str(said).strip().splitlines()[0]
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
    "malformed": "the database file is damaged; stop the daemon and restore the last backup",
}
