"""Checks of SQLite and of the disk for `doctor`, by the daemon and by the command alike."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bridge.domain.finding import Finding
from bridge.store.sqlite import database_file, key_file

DISK_LOW_BYTES: Final = 1024**3
DISK_OUT_BYTES: Final = 100 * 1024**2


def check_sqlite() -> Finding:
    """Version of SQLite, and whether it has the WAL-reset fault (fixed in 3.51.3)."""
    versions = f"{sqlite3.sqlite_version} (Python {platform.python_version()})"
    if database_file.has_wal_reset_fault():
        advice = "never let another program (Litestream, a shell) write to the file while the daemon runs"
        return Finding(None, "SQLite", f"{versions} has the WAL-reset fault; our single writer avoids it, but {advice}")
    return Finding(True, "SQLite", versions)


def disk_free(database: Path) -> int:
    """The room on the disk of the database, in bytes; its folder need not exist."""
    return shutil.disk_usage(_folder_of(database)).free


def _folder_of(database: Path) -> Path:
    """The folder of the database, or the nearest above it that exists."""
    return next(parent for parent in database.absolute().parents if parent.exists())


def check_disk(database: Path) -> Finding:
    """Whether the disk of the database has room."""
    folder, free = _folder_of(database), disk_free(database)
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < DISK_OUT_BYTES:
        return Finding(False, "disk", f"{text}; make room, a full disk stops everything")
    return Finding(None if free < DISK_LOW_BYTES else True, "disk", text)


def check_files(database: Path) -> Iterator[Finding]:
    """Whether the database, its key and their folder belong to this process's user alone and can be written by it."""
    beside = [database, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))]
    modes = {path: _mode_of(path) for path in (*beside, key_file.path_beside(database))}
    files = [path for path, mode in modes.items() if mode is not None]
    folder = database.absolute().parent
    if not os.access(folder, os.F_OK):
        return
    exposed = [path for path in files if (modes[path] or 0) & (stat.S_IRWXG | stat.S_IRWXO)]
    owner = owner_of(folder)
    shut = [path for path in (folder, *files) if not _may_write(path)]
    foreign = [path for path in files if os.geteuid() == 0 and owner_of(path) not in (owner, None)]
    if exposed:
        names = " ".join(map(str, exposed))
        yield Finding(None, "file modes", f"other users may open what holds people's documents; chmod 600 {names}")
    if shut:
        who = f"the user {os.geteuid() or 'who owns them'}"
        names = ", ".join(map(str, shut))
        yield Finding(False, "permissions", f"{who} cannot write {names}; {database_file.write_advice(folder)}")
    if foreign:
        names = " ".join(map(str, foreign))
        detail = f"the folder belongs to the user {owner}, but not all in it; if the daemon is {owner}: chown {owner} {names}"
        yield Finding(None, "owners", detail)
    if not exposed and not shut and not foreign:
        yield Finding(True, "files", f"{folder} can be written, and nobody else may open the database")


def owner_of(path: Path) -> int | None:
    """The user whose file it is; None if it is not there."""
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _may_write(path: Path) -> bool:
    """Whether this user may write there. Root may anywhere, so that the owner's right counts, too."""
    return os.access(path, os.W_OK) and (os.geteuid() != 0 or bool((_mode_of(path) or 0) & stat.S_IWUSR))


def _mode_of(path: Path) -> int | None:
    """None for a file that is not there; SQLite makes and removes its own beside the database."""
    try:
        return path.stat().st_mode
    except OSError:
        return None
