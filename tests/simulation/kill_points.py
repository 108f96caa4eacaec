"""Named points at which a daemon kills itself with SIGKILL, once it has passed them so many times.

A point is armed in the process that is to die, after a fork: nothing of it is in the product.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

BEFORE, AFTER = "before", "after"
CALLS: Final = {
    "the node has joined": ("bridge.daemon:Daemon._join", AFTER),
    "a request was checked": ("bridge.api.context:RequestContext.write_grouped", BEFORE),
    "a request was committed and not answered": ("bridge.api.context:RequestContext.write_grouped", AFTER),
    "a run is about to be started": ("bridge.polling.connection_client:ConnectionClient.trigger", BEFORE),
    "a run was started and not recorded": ("bridge.polling.connection_client:ConnectionClient.trigger", AFTER),
    "a poll is about to be sent": ("bridge.polling.connection_client:ConnectionClient.poll", BEFORE),
    "a poll was answered": ("bridge.polling.connection_client:ConnectionClient.poll", AFTER),
    "a poll is about to be recorded": ("bridge.polling.poll_results:PollResults.handle", BEFORE),
    "a poll was recorded": ("bridge.polling.poll_results:PollResults.handle", AFTER),
    "a run is changed and its events are not": ("bridge.store.runs:record_events", BEFORE),
    "events are there and the commit is not": ("bridge.store.runs:record_events", AFTER),
    "a delivery was claimed": ("bridge.delivery.deliverer:Deliverer._deliver", BEFORE),
    "a post is about to be made": ("bridge.delivery.sender:Sender.post", BEFORE),
    "a post was answered and not recorded": ("bridge.delivery.sender:Sender.post", AFTER),
    "an attempt was recorded": ("bridge.delivery.deliverer:Deliverer._record", AFTER),
    "an attempt is recorded and the next event is not released": ("bridge.store.attempts:release_next", BEFORE),
}
WHEN_STOPPING: Final = {
    "it is about to drain": ("bridge.delivery.deliverer:Deliverer.drain", BEFORE),
    "it has drained": ("bridge.delivery.deliverer:Deliverer.drain", AFTER),
    "it is about to leave": ("bridge.daemon:Daemon._leave", BEFORE),
    "it has left": ("bridge.daemon:Daemon._leave", AFTER),
}
"""Reached after SIGTERM."""
OF_TRIGGERS: Final = ("a run is about to be started", "a run was started and not recorded")
ONCE: Final = (*WHEN_STOPPING, *OF_TRIGGERS, "the node has joined")
"""Passed once in a life of the process."""
OF_SQLITE: Final = ("any statement", "before a commit", "after a commit", "in a commit")
TORN: Final = "torn.json"  # beside the database: how long the write-ahead log was before the commit that was cut off


def arm(point: str, passes: int, folder: Path) -> None:
    """Die at this point when it is passed for the `passes`th time, counted from 1; `folder`: the database's."""
    if point in OF_SQLITE:
        _watch_statements(point, _countdown(passes), folder)
    else:
        place, when = (CALLS | WHEN_STOPPING)[point]
        _wrap(place, when, _countdown(passes))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _countdown(passes: int) -> Callable[[], bool]:
    left = passes

    def is_over() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    return is_over


def _wrap(place: str, when: str, is_over: Callable[[], bool]) -> None:
    module, _, name = place.partition(":")
    *outer, last = name.split(".")
    owner: Any = functools.reduce(getattr, outer, importlib.import_module(module))
    call = getattr(owner, last)

    @functools.wraps(call)
    def wrapped(*args: Any, **more: Any) -> Any:
        if when == BEFORE and is_over():
            _die()
        answer = call(*args, **more)
        if when == AFTER and is_over():
            _die()
        return answer

    @functools.wraps(call)
    async def awaited(*args: Any, **more: Any) -> Any:
        if when == BEFORE and is_over():
            _die()
        answer = await call(*args, **more)
        if when == AFTER and is_over():
            _die()
        return answer

    setattr(owner, last, awaited if asyncio.iscoroutinefunction(call) else wrapped)


def _watch_statements(point: str, is_over: Callable[[], bool], folder: Path) -> None:
    from bridge.store import database

    make_engine = database.writer_engine

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            is_met = sql == "COMMIT" if "commit" in point else not sql.startswith("PRAGMA")
            if not is_met or not is_over():
                return super().execute(sql, *args)
            if point == "in a commit":
                self._tear()
            if point == "after a commit":
                super().execute(sql, *args)
            _die()
            raise AssertionError

        def cursor(self, factory: Any = None) -> sqlite3.Cursor:
            if point == "any statement" and is_over():
                _die()
            return super().cursor() if factory is None else super().cursor(factory)

        def _tear(self) -> None:
            """Commit, and say from where on the log may be cut: a checkpoint must not have used what is behind."""
            wal = folder / "runbridge.db-wal"
            before = wal.stat().st_size, _heads(folder)
            super().execute("COMMIT")
            is_same = not before[0] or before[1] == _heads(folder)
            (folder / TORN).write_text(json.dumps(before[0] if is_same else None))

    def writer_engine(path: Path) -> sa.Engine:
        engine = make_engine(path)
        sa.event.listen(
            engine, "do_connect", lambda _dialect, _record, _args, options: options.update(factory=Connection)
        )
        return engine

    database.writer_engine = writer_engine


def _heads(folder: Path) -> tuple[bytes, bytes, int]:
    """The part of the file that changes when the log is begun again or copied into the database."""
    database = folder / "runbridge.db"
    with database.open("rb") as opened, (folder / "runbridge.db-wal").open("rb") as log:
        return log.read(32), opened.read(100), database.stat().st_mtime_ns
