"""Back up the SQLite database to one checked file, also while the daemon runs.

SQLite's backup API reads one consistent state while the daemon keeps writing. The copy gets its name only when it is
complete and sound.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from bridge.domain.errors import BridgeError, Conflict, DatabaseRefused, NotFound
from bridge.store.inspection import Inspection, inspect_file, open_for_reading
from bridge.store.sqlite import database_file, partial_file

PAGES_PER_STEP = 1000

Progress = Callable[[int, int], None]  # pages done, pages in all


def name_at(now: datetime) -> str:
    """The file name of a copy made at `now`; the names sort by time."""
    return f"runbridge-{now:%Y%m%dT%H%M%SZ}.db"


def back_up(source: Path, target: Path, progress: Progress | None = None) -> Inspection:
    """Copy `source` to the new file `target` (mode 0600) and answer what was found in the copy.

    NotFound without a source, Conflict if there is a target, DatabaseRefused where the source is not
    ours or damaged, BridgeError if the copy cannot be written.
    """
    if not source.exists():
        raise NotFound(f"there is no database at {source}; name the right configuration with --config")
    if target.exists():
        raise Conflict(f"{target} exists already and stays as it is; choose another name")
    partial = partial_file.path_for(target)
    try:
        with _daemon_kept_out(source) as is_unlocked:
            if is_unlocked:  # a daemon has checked its file; and opening it again in its process would drop its locks
                database_file.check(source)
            _copy(source, partial, progress)
        found = inspect_file(partial)
        if found.problems:
            raise DatabaseRefused(f"the copy of {source} is not sound: {found.problems[0]}; the backup was not kept")
        _put_in_place(partial, target)
    except (OSError, sqlite3.Error) as error:
        raise BridgeError(f"cannot write the backup {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return found


@contextlib.contextmanager
def _daemon_kept_out(source: Path) -> Iterator[bool]:
    """Hold the daemon's lock and yield True if it is free. If a daemon runs, it writes and we only read."""
    try:
        lock = database_file.FileLock.take(source)
    except DatabaseRefused:
        lock = None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def _copy(source: Path, partial: Path, progress: Progress | None) -> None:
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def _report(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    with open_for_reading(source) as origin, contextlib.closing(sqlite3.connect(partial)) as copy:
        # One read transaction for all steps: without it every commit of the daemon would restart the copy.
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_master").fetchone()
        origin.backup(copy, pages=PAGES_PER_STEP, progress=_report)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without -wal and -shm beside it


def _put_in_place(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.link(partial, target)  # fails if there is a target by now; a rename would overwrite it
    partial_file.sync_folder(target.parent)
