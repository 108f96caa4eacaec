"""The write desk: the one place where SQLite is written, one transaction for whatever has gathered.

SQLite has one writer. Callers queue here; the desk opens one `BEGIN IMMEDIATE` transaction, runs each
caller's function in a savepoint of its own, commits once (`synchronous=FULL`), and answers each caller
after the commit. A caller's mistake undoes only its own savepoint; a failing disk undoes them all.

A batch is one hop to the desk's own thread and one back. Over the asyncio driver every statement was four
hops (cursor, execute, fetch, close), which cost 2 ms of CPU for one recorded transition against 0.4 ms so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError, ProgrammingError

from bridge.domain.clock import Clock
from bridge.domain.errors import StoreUnavailable
from bridge.domain.vault import Vault
from bridge.store.transaction import Announcements, Tx

T = TypeVar("T")

_CALLERS_MISTAKES = (IntegrityError, DataError, ProgrammingError)
# As text: SQLAlchemy would make and compile each anew, every time.
_SAVEPOINT, _RELEASE, _UNDO = "SAVEPOINT caller", "RELEASE caller", "ROLLBACK TO caller"
BATCH_MAX = 500  # callers in one commit; keeps a commit within some tens of milliseconds


@dataclass(slots=True)
class _Job:
    work: Callable[[Tx], Any]
    answer: asyncio.Future[Any]


class WriteDesk:
    """Commits what has gathered, over one connection held for life."""

    def __init__(
        self, engine: sa.Engine, clock: Clock, vault: Vault, announce: Callable[[Announcements], None]
    ) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-desk")
        self._clock = clock
        self._vault = vault
        self._announce = announce
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
            await self._task
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()

    async def submit(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in the next commit; its answer comes after the commit. StoreUnavailable if there is none."""
        if self._closing:
            raise StoreUnavailable("the daemon is stopping; try again when it runs")
        job = _Job(work, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._bell.set()
        answer: T = await job.answer
        return answer

    async def _serve(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._jobs:
                batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), BATCH_MAX))]
                await self._commit(batch)
            if self._closing:
                return

    async def _commit(self, batch: list[_Job]) -> None:
        try:
            loop = asyncio.get_running_loop()
            answers, announcements = await loop.run_in_executor(self._thread, self._run, batch)
        except DBAPIError as error:
            for job in batch:
                _fail(job, StoreUnavailable(explain(error)))
            return
        self._announce(announcements)
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                _fail(job, answer)
            elif not job.answer.done():
                job.answer.set_result(answer)

    def _run(self, batch: list[_Job]) -> tuple[list[Any], Announcements]:
        now = self._clock.now()
        together = Announcements()
        with self._engine.begin() as connection:
            known: dict[str, Any] = {}
            answers = [
                self._run_one(connection, job, Tx(connection, now, known=known, vault=self._vault), together)
                for job in batch
            ]
        return answers, together

    def _run_one(self, connection: sa.Connection, job: _Job, tx: Tx, together: Announcements) -> Any:
        if job.answer.cancelled():
            return None
        connection.exec_driver_sql(_SAVEPOINT)
        try:
            answer = job.work(tx)
            connection.exec_driver_sql(_RELEASE)
        except Exception as error:  # handed to the caller that caused it
            if isinstance(error, DatabaseError) and not isinstance(error, _CALLERS_MISTAKES):
                raise  # the disk or the lock, not this caller: the whole transaction goes
            connection.exec_driver_sql(_UNDO)
            tx.known.clear()
            return error
        together.add(tx.announcements)
        return answer


def _fail(job: _Job, error: BaseException) -> None:
    if not job.answer.done():
        job.answer.set_exception(error)


def explain(error: DBAPIError) -> str:
    """One sentence for a person about a database that cannot be used now."""
    text = str(error.orig or error).strip().splitlines()[0]
    for sign, sentence in _SENTENCES.items():
        if sign in text.lower():
            return f"{sentence} ({text})"
    return f"the database cannot be used at the moment: {text}"


_SENTENCES = {
    "disk is full": "the disk that holds the database is full; free some space, nothing was lost",
    "disk i/o error": "the disk that holds the database fails or is full; free some space or check it",
    "database is locked": "another program holds the database locked; close it",
    "readonly": "the database file is read-only; give the daemon's user write permission",
    "malformed": "the database file is damaged; stop the daemon and restore the last backup",
}
