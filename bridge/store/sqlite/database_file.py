"""The SQLite file: to which program it belongs, whether it is sound, and the lock that keeps a second daemon out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
from pathlib import Path

from sqlalchemy.engine import URL

from bridge.domain.errors import DatabaseRefused
from bridge.store.sqlite import key_file

APPLICATION_ID = 0x72756E62  # "runb", in the file's header: tells our database from another program's
BUSY_TIMEOUT_S = 5.0
WAL_PAGES_BEFORE_CHECKPOINT = 2000
FULL_CHECK_BYTES_MAX = 64 * 1024 * 1024  # larger files are not read completely at every start
_MAGIC = b"SQLite format 3\x00"
_INCREMENTAL = 2  # what `PRAGMA auto_vacuum` answers


def path_of(url: URL) -> Path:
    """The file that a `sqlite:///PATH` URL names."""
    if not url.database or url.database == ":memory:":
        raise DatabaseRefused("[database] url must name a file, for example sqlite:////var/lib/runbridge/runbridge.db")
    return Path(url.database)


class LockFile:
    """`<database>.lock`, locked while the daemon runs, so that a second one is refused."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, database: Path) -> LockFile:
        """Take the lock. DatabaseRefused, naming the holder, if another process has it."""
        path = database.with_name(database.name + ".lock")
        try:
            database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DatabaseRefused(
                f"cannot write in {database.parent}: {error.strerror}; give the daemon's user write permission there"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise DatabaseRefused(
                f"another runbridge ({holder}) is using {database}; stop it first, or give this one another [database] url"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        return cls(descriptor)

    def release(self) -> None:
        """Release the lock."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)


def is_unused(path: Path) -> bool:
    """Whether no file beside it shows that a daemon has used it. Call it before the lock file is created."""
    traces = (path.name + ".lock", path.name + "-wal", key_file.NAME)
    return not any(path.with_name(name).exists() for name in traces)


def check(path: Path, *, may_be_empty: bool = False) -> None:
    """DatabaseRefused, with one sentence, for a file that is foreign, damaged, read-only or locked. A missing one is fine.

    `may_be_empty`: an empty file is new (`is_unused`), not the rest of a database. Creates and changes nothing.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            header = file.read(16)
    except PermissionError as error:
        whose = f"it belongs to user {path.stat().st_uid}, and this is {os.geteuid()}"
        raise DatabaseRefused(f"cannot read {path}: {whose}; give it to the daemon's user (chown)") from error
    except OSError as error:
        raise DatabaseRefused(f"cannot read {path}: {error.strerror}") from error
    if header != _MAGIC and (header or not may_be_empty):
        what = "is empty (cut off?)" if not header else "is not a SQLite database"
        raise DatabaseRefused(f"{path} {what}; restore a backup, move it away, or name another [database] url")
    if not os.access(path, os.W_OK):
        raise DatabaseRefused(f"{path} is read-only for this user; give it write permission")
    try:
        _check_content(path)
    except sqlite3.Error as error:
        raise DatabaseRefused(_sentence(path, error)) from error


def _check_content(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA query_only=ON")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise DatabaseRefused(f"{path} belongs to another program; name another [database] url")
        if path.stat().st_size <= FULL_CHECK_BYTES_MAX:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found.removeprefix("*** in database main ***\n"))


def _sentence(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text:
        return f"{path} is locked by another program; close it and start again"
    if "unable to open" in text or "readonly" in text:
        return f"{path} cannot be opened for writing: {text}; check its permissions and those of its folder"
    return f"{path} is damaged ({text.splitlines()[0]}); restore the last backup (`runbridge db backup` makes them)"


def has_wal_reset_fault(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite can damage a WAL database when two connections write and checkpoint at the same instant.

    Fixed in 3.51.3, and in the back-ports 3.50.7 and 3.44.6. With a single writer it cannot happen, unless another
    program writes to the file as well.
    """
    return not (version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45))
