"""Scheduled backups: a checked copy of the SQLite database in a folder, of which the newest are kept."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from bridge.domain.clock import Clock
from bridge.domain.errors import BridgeError
from bridge.store.database import Database
from bridge.store.sqlite import backup, database_file, partial_file

log = structlog.get_logger()
_NAME: Final = re.compile(r"runbridge-\d{8}T\d{6}Z\.db", re.ASCII)


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """When (a cron line, None: never), where to (relative: beside the database) and how many copies are kept."""

    cron: str | None
    folder: str
    keep: int


class Interrupted(BridgeError):
    """The daemon stops before the copy is whole."""


async def make_backup(database: Database, clock: Clock, plan: BackupPlan) -> Path | None:
    """Copy the database and delete the oldest copies; the new file, None if it could not be made."""
    source = database_file.path_of(database.url)
    folder = source.parent / plan.folder
    is_interrupted, began = threading.Event(), clock.monotonic()

    def interrupt(_done: int, _total: int) -> None:
        if is_interrupted.is_set():
            raise Interrupted("the daemon stops")

    def make() -> tuple[Path, int, list[str]]:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial_file.delete_abandoned(folder, "runbridge-*.db")
        target = folder / backup.name_at(clock.now())
        found = backup.back_up(source, target, interrupt)
        return target, found.size_bytes or 0, _delete_oldest(folder, plan.keep)

    try:
        target, size_bytes, deleted = await asyncio.to_thread(make)
    except asyncio.CancelledError:
        is_interrupted.set()
        raise
    except (BridgeError, OSError) as error:
        log.error("backup.failed", reason=_explain(error, folder))
        return None
    took_s = round(clock.monotonic() - began, 3)
    log.info("backup.made", file=str(target), size_bytes=size_bytes, took_s=took_s, deleted=deleted)
    return target


def _explain(error: BridgeError | OSError, folder: Path) -> str:
    if isinstance(error, OSError):
        return f"cannot write in {folder}: {error.strerror}; give the daemon's user write permission there"
    return str(error)


def _delete_oldest(folder: Path, keep: int) -> list[str]:
    """Delete all but the newest copies; their names hold the time and sort by it."""
    oldest = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))[:-keep]
    for path in oldest:
        path.unlink(missing_ok=True)
    return [path.name for path in oldest]
