"""Checks of SQLite and of the disk for `doctor`, by the daemon and by the command alike."""

from __future__ import annotations

import platform
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from bridge.domain.finding import Finding
from bridge.store.sqlite import database_file

DISK_LOW_BYTES: Final = 1024**3
DISK_OUT_BYTES: Final = 100 * 1024**2


def check_sqlite() -> Finding:
    """Version of SQLite, and whether it has the WAL-reset fault (fixed in 3.51.3)."""
    versions = f"{sqlite3.sqlite_version} (Python {platform.python_version()})"
    if database_file.has_wal_reset_fault():
        advice = "never let another program (Litestream, a shell) write to the file while the daemon runs"
        return Finding(None, "SQLite", f"{versions} has the WAL-reset fault; our single writer avoids it, but {advice}")
    return Finding(True, "SQLite", versions)


def check_disk(database: Path) -> Finding:
    """Whether the disk of the database has room."""
    folder = next(parent for parent in (database.absolute().parent, *database.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if free < DISK_OUT_BYTES:
        return Finding(False, "disk", f"{text}; make room, a full disk stops everything")
    return Finding(None if free < DISK_LOW_BYTES else True, "disk", text)
