"""The machine of one life: its clocks, its random bytes, its threads and its disk.

Import it before anything else and call `Machine.take_over`: what is imported later finds virtual clocks.
A life runs in a process of its own, so nothing is put back.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import apscheduler.schedulers.base
import sqlalchemy as sa
from greenlet import getcurrent, greenlet

from bridge.domain import clock
from bridge.maintenance import wall_clock
from bridge.store import database
from bridge.store.sqlite import writer
from tests.simulation.virtual_loop import Process, VirtualLoop, process, take_over

THREAD_DELAY_MAX_S: Final = 0.003
_WAL_HEADER_BYTES: Final = 32


class Machine:
    """The threads and SQLite connections of one life, in place of real ones."""

    def __init__(self, loop: VirtualLoop, disk: Disk) -> None:
        self.loop = loop
        self.disk = disk

    def now(self) -> datetime:
        """The wall clock."""
        return datetime.fromtimestamp(self.loop.clock.wall_s(), UTC)

    def take_over(self) -> None:
        """Replace them in this process."""
        take_over()
        loop, machine = self.loop, self
        clock.SystemClock.monotonic = staticmethod(loop.time)
        clock.SystemClock.now = lambda _self: machine.now()  # type: ignore[method-assign]

        class VirtualDatetime(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(loop.clock.wall_s(), tz)

        apscheduler.schedulers.base.datetime = VirtualDatetime
        writer.SimpleQueue = lambda: _Queue(loop, machine.disk)  # type: ignore[misc,assignment]
        writer.threading = _Threads()  # type: ignore[assignment]
        wall_clock.Future = _Future  # type: ignore[misc,assignment]
        make_engine = writer.writer_engine

        def writer_engine(path: Path) -> sa.Engine:
            engine = make_engine(path)
            owner, disk = process.get(), self.disk

            class Connection(_Connection):
                watcher = disk
                killed = owner

            sa.event.listen(
                engine, "do_connect", lambda _dialect, _record, _args, options: options.update(factory=Connection)
            )
            return engine

        database.writer_engine = writer_engine


class _Queue:
    """A queue whose reader is the writer's thread: it is woken a moment after something was put in."""

    def __init__(self, loop: VirtualLoop, disk: Disk) -> None:
        self._loop, self._disk = loop, disk
        self._items: deque[Any] = deque()
        self._reader: greenlet | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._reader is not None:
            reader, self._reader = self._reader, None
            delay_s = self._loop.chance.random() * (THREAD_DELAY_MAX_S + self._disk.slow_s)
            self._loop.call_later(delay_s, _switch, reader)

    def get(self) -> Any:
        while not self._items:
            self._reader = getcurrent()
            _leave()
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise writer.Empty
        return self._items.popleft()


class _Future:
    """In place of `concurrent.futures.Future`, for a thread that waits for the event loop."""

    def __class_getitem__(cls, _: Any) -> type[_Future]:
        return cls

    def __init__(self) -> None:
        self._is_done = False
        self._reader: greenlet | None = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, _: None) -> None:
        self._is_done = True
        if self._reader is not None:
            reader, self._reader = self._reader, None
            _switch(reader)

    def result(self) -> None:
        while not self._is_done:
            self._reader = getcurrent()
            _leave()


class _Threads:
    """In place of `threading`: a thread is a greenlet, which runs until it waits for its queue."""

    class Thread:
        def __init__(self, *, target: Callable[[], None], **_: object) -> None:
            self._target = target

        def start(self) -> None:
            thread = greenlet(self._target)
            thread.gr_context = copy_context()  # it belongs to the process that started it
            _switch(thread)


def _switch(to: greenlet) -> None:
    to.parent = getcurrent()
    to.switch()


def _leave() -> None:
    parent = getcurrent().parent
    assert parent is not None
    parent.switch()


# -- the disk


@dataclass
class Disk:
    """The database's folder, what is wrong with the disk, and when the machine fails in the middle of a transaction.

    `crash_in`: statements of the writer until then; None: not. `kill` is called for it.
    """

    folder: Path
    chance: random.Random
    kill: Callable[[], None] = lambda: None
    is_full: bool = False
    fails: float = 0.0
    loses_answer: float = 0.0
    """How often a commit that succeeded is said to have failed."""
    slow_s: float = 0.0
    """How long a write may take."""
    crash_in: int | None = None
    commits: int = 0
    _generation: int = 0

    @property
    def database(self) -> Path:
        """The file that the next daemon opens."""
        return self.folder / str(self._generation) / "runbridge.db"

    def make(self) -> None:
        """Make the first folder."""
        self.database.parent.mkdir(parents=True)

    def keep(self, *, torn_from: int | None = None) -> None:
        """Copy what is on the disk now into a new folder, as the next daemon finds it.

        `torn_from`: the WAL is cut at a random place after so many bytes, because it was being written.
        """
        old = self.database
        self._generation += 1
        self.make()
        for name in ("runbridge.db", "runbridge.db-wal", "secrets.key"):
            if (old.parent / name).exists():
                shutil.copyfile(old.parent / name, self.database.parent / name)
        wal = self.database.parent / "runbridge.db-wal"
        if torn_from is not None and wal.exists() and wal.stat().st_size > torn_from:
            os.truncate(wal, self.chance.randrange(torn_from, wal.stat().st_size))

    def before(self, connection: sqlite3.Connection, statement: str) -> None:
        """Raise what the disk raises before this statement."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                self._crash(connection, is_commit=statement == "COMMIT")
        if self.is_full and (statement == "COMMIT" or self.chance.random() < 0.2):
            raise sqlite3.OperationalError("database or disk is full")
        if self.fails and self.chance.random() < self.fails:
            raise sqlite3.OperationalError("disk I/O error")
        if self.loses_answer and statement == "COMMIT" and self.chance.random() < self.loses_answer:
            sqlite3.Connection.execute(connection, "COMMIT")
            raise sqlite3.OperationalError("disk I/O error")

    def _crash(self, connection: sqlite3.Connection, *, is_commit: bool) -> None:
        torn_from = None
        if is_commit and self.chance.random() < 0.7:
            wal = self.database.parent / "runbridge.db-wal"
            before = wal.stat().st_size, wal.read_bytes()[:_WAL_HEADER_BYTES], _stamp(self.database)
            sqlite3.Connection.execute(connection, "COMMIT")
            after = wal.read_bytes()[:_WAL_HEADER_BYTES], _stamp(self.database)
            if before[1:] == after and self.chance.random() < 0.7:  # no checkpoint, and no WAL begun again
                torn_from = before[0]
        self.keep(torn_from=torn_from)
        self.kill()
        while True:  # nothing of this thread runs any more
            _leave()


def _stamp(path: Path) -> tuple[int, bytes]:
    content = path.read_bytes()
    return len(content), content[:100]


class _Connection(sqlite3.Connection):
    """The writer's connection: each statement may meet a faulty disk."""

    watcher: Disk
    killed: Process | None

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._meet(sql)
        return super().execute(sql, *args)

    def cursor(self, factory: Any = None) -> sqlite3.Cursor:
        self._meet("cursor")
        return super().cursor() if factory is None else super().cursor(factory)

    def _meet(self, statement: str) -> None:
        if not statement.startswith(("PRAGMA", "ROLLBACK")) and self.killed is not None and not self.killed.is_dead:
            self.watcher.before(self, statement)


__all__ = ["Disk", "Machine", "Process"]
