"""The SQLite file: to which program it belongs, whether it is sound, and the lock that keeps a second daemon out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.engine import URL

from bridge.domain.errors import DatabaseRefused, StoreUnavailable
from bridge.store.sqlite import key_file

APPLICATION_ID = 0x72756E62  # "runb", in the file's header: tells our database from another program's
BUSY_TIMEOUT_S = 5.0  # at the start and for commands; the daemon itself waits `SERVING_BUSY_TIMEOUT_S`
SERVING_BUSY_TIMEOUT_S = 2.0  # a caller waits for the commit under way and for its own: answered within 5 s
FULL_CHECK_BYTES_MAX = 64 * 1024 * 1024  # larger files are not read completely at every start
_MAGIC = b"SQLite format 3\x00"


def path_of(url: URL) -> Path:
    """The file that a `sqlite:///PATH` URL names."""
    if not url.database or url.database == ":memory:":
        raise DatabaseRefused("[database] url must name a file, for example sqlite:////var/lib/runbridge/runbridge.db")
    return Path(url.database)


def last_written(url: URL) -> datetime | None:
    """When the database was last written, by the machine's wall clock; None if there is none yet."""
    path = path_of(url)
    for each in (path.with_name(path.name + "-wal"), path):
        with contextlib.suppress(OSError):
            if (found := each.stat()).st_size:
                return datetime.fromtimestamp(found.st_mtime, UTC)
    return None


def refuse_query(url: str) -> None:
    """DatabaseRefused for a `sqlite:///…` URL with a query, which would open the file named before it."""
    if url.startswith("sqlite") and "?" in url:
        raise DatabaseRefused("[database] url: a SQLite URL has no parameters; leave out everything from the `?` on")


class FileLock:
    """Keeps a second daemon out, and notices when the file is no longer the one that was opened.

    `<database>.lock` names the holder. The database file itself is locked too, by its inode: so neither another name
    for it nor a deleted `.lock` lets a second daemon in.
    """

    def __init__(self, database: Path, descriptor: int, *, is_new: bool) -> None:
        self._database = database
        self._path = _lock_path(database)
        self._descriptor: int | None = descriptor
        self._is_new = is_new
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._database_name = str(database)
        self._beside: dict[str, tuple[int, int] | None] = {f"{database}-wal": None, f"{database}-shm": None}

    @classmethod
    def take(cls, database: Path) -> FileLock:
        """Take the lock. DatabaseRefused, naming the holder, if another process has it."""
        path = _lock_path(database)
        is_new = not path.exists()
        try:
            database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            said = f"{error.filename} is not a folder; name another file in [database] url"
            raise DatabaseRefused(said) from error
        except OSError as error:
            raise DatabaseRefused(
                f"cannot write in {database.parent}: {error.strerror}; {write_advice(database.parent)}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise DatabaseRefused(
                f"another runbridge ({holder}) is using {database}; stop it first, or give this one another [database] url"
            ) from None
        lock = cls(database, descriptor, is_new=is_new)
        if database.is_file() and os.access(database, os.R_OK | os.W_OK):  # what is wrong otherwise, `check` says
            lock.take_file()
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        return lock

    def take_file(self) -> None:
        """Lock the database file itself, once it exists, and remember which file it is."""
        if self._file is not None:
            return
        self._file = os.open(self._database, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `_file` stays open: closing it would drop the locks that SQLite holds on the file in this process.
            self._file = None
            self.release()
            raise DatabaseRefused(
                f"another runbridge is using {self._database}, perhaps under another name; "
                "stop it first, or give this one another [database] url"
            ) from None
        found = os.fstat(self._file)
        self._identity = found.st_dev, found.st_ino

    def check(self) -> None:
        """StoreUnavailable if the path, or that of the -wal or -shm beside it, no longer leads to the file that was opened."""
        if self._identity is None:
            return
        found = _identity_of(self._database_name)
        if found is None:
            raise StoreUnavailable(
                f"{self._database} was deleted or moved while the daemon used it; "
                "put it back, or stop the daemon and restore the last backup"
            )
        if found != self._identity:
            raise StoreUnavailable(
                f"{self._database} was replaced while the daemon used it; "
                "restart the daemon to use the new file, or put the old one back"
            )
        for name, known in self._beside.items():
            found = _identity_of(name)
            if known is None:  # the first write makes it, and it stays until the daemon ends
                self._beside[name] = found
            elif found != known:
                raise StoreUnavailable(
                    f"{name} was deleted or replaced while the daemon used it; "
                    "restart the daemon, which still holds its content and writes that to the database"
                )

    def release(self) -> None:
        """Release the lock, once. Call it when SQLite has closed the file."""
        held, self._file = self._file, None
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:  # by now its number may be that of another file
            return
        with contextlib.suppress(OSError):
            if held is not None:
                os.close(held)
            os.ftruncate(descriptor, 0)
            if self._is_new and not self._database.is_file():  # the first start failed and leaves no trace
                self._path.unlink()
        os.close(descriptor)


def holder_of(database: Path) -> str | None:
    """The process that holds the lock of this database, in its own words; None if none does."""
    try:
        descriptor = os.open(_lock_path(database), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)
    return None


def _read_holder(descriptor: int) -> str:
    return os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"


def _identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of the file; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - after each commit, and Path.stat() takes twice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lock_path(database: Path) -> Path:
    return database.with_name(database.name + ".lock")


def traces_of(path: Path) -> list[str]:
    """The names of files beside it that show that a daemon has used it. Call it before the lock is taken."""
    names = [path.name + ".lock", path.name + "-wal"]
    others = {lock.with_suffix("") for lock in path.parent.glob("*.lock")} - {path}
    if not any(other.exists() for other in others):  # otherwise the key belongs to another database in this folder
        names.append(key_file.NAME)
    return [name for name in names if path.with_name(name).exists()]


def refuse_missing(path: Path, traces: Sequence[str]) -> None:
    """DatabaseRefused if the file is missing, but was there."""
    if traces and not path.exists():
        raise DatabaseRefused(
            f"{path} is missing, but {' and '.join(traces)} beside it show that it was used; "
            f"put it back or restore the last backup, or delete {' and '.join(traces)} to begin with an empty database"
        )


def check(path: Path, *, may_be_empty: bool = False) -> None:
    """DatabaseRefused, with one sentence, for a file that is foreign, damaged, read-only or locked. A missing one is fine.

    `may_be_empty`: an empty file is new (without `traces_of`), not the rest of a database. Creates and changes nothing.
    """
    if not path.exists():
        target = Path(os.path.realpath(path))
        if path.is_symlink() and (target.is_symlink() or not target.parent.is_dir()):
            raise DatabaseRefused(
                f"{path} is a link that leads nowhere ({path.readlink()}); correct it, or name the file in [database] url"
            )
        return
    if not path.is_file():  # opening a pipe would wait for ever
        raise DatabaseRefused(f"{path} is a folder, a pipe or a device; name a file in [database] url")
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
        raise DatabaseRefused(f"{path} is read-only for this user; {write_advice(path)}")
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


def write_advice(path: Path) -> str:
    """The remedy for a `path` that cannot be written; it need not exist."""
    with contextlib.suppress(OSError):
        nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
        if os.statvfs(nearest).f_flag & os.ST_RDONLY:
            return "the file system is read-only: mount it writable, or name the folder in ReadWritePaths= of the unit"
    return "give the daemon's user write permission there"
