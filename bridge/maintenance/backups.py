"""Scheduled backups: a checked copy of the SQLite database in a folder, of which the newest are kept."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from apscheduler.triggers.cron import CronTrigger

from bridge.domain.clock import Clock
from bridge.domain.errors import BridgeError
from bridge.domain.finding import Finding
from bridge.domain.timestamps import format_duration, format_instant
from bridge.runtime.metrics import Metrics
from bridge.store.database import Database
from bridge.store.sqlite import backup, database_file, partial_file

log = structlog.get_logger()
_NAME: Final = re.compile(r"runbridge-(\d{8}T\d{6}Z)\.db", re.ASCII)
LATE_AFTER: Final = timedelta(hours=1)
_TICK: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """When (a cron line, None: never), where to (relative: beside the database) and how many copies are kept."""

    cron: str | None
    folder: str
    keep: int


class Interrupted(BridgeError):
    """The daemon stops before the copy is whole."""


class Backups:
    """Owns the plan of a daemon's backups, and the result of the latest."""

    def __init__(self, database: Database, clock: Clock, metrics: Metrics) -> None:
        self.plan = BackupPlan(None, "", 1)
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._since = clock.now()
        self._failure: str | None = None

    def use(self, plan: BackupPlan) -> None:
        """Follow this plan from the next copy on."""
        self.plan = plan
        self._metrics.backup_planned.set(plan.cron is not None)
        if self._database.is_sqlite and plan.cron is not None:
            made_at = newest_at(plan, database_file.path_of(self._database.url))
            self._metrics.backup_at.set(made_at.timestamp() if made_at else 0)

    async def make(self) -> None:
        """Make a copy, or keep why there is none for `check`."""
        made = await make_backup(self._database, self._clock, self.plan)
        self._failure = made if isinstance(made, str) else None
        self._metrics.of(self._metrics.backups, "failed" if self._failure else "made").inc()
        if self._failure is None:
            self._metrics.backup_at.set(self._clock.now().timestamp())

    def check(self) -> Finding:
        """Whether the newest copy is as young as the schedule promises."""
        file = database_file.path_of(self._database.url)
        return check(self.plan, file, now=self._clock.now(), since=self._since, failure=self._failure)


async def make_backup(database: Database, clock: Clock, plan: BackupPlan) -> Path | str:
    """Copy the database and delete the oldest copies; the new file, or why it could not be made."""
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
        reason = _explain(error, folder)
        log.error("backup.failed", reason=reason)
        return reason
    took_s = round(clock.monotonic() - began, 3)
    log.info("backup.made", file=str(target), size_bytes=size_bytes, took_s=took_s, deleted=deleted)
    return target


def _explain(error: BridgeError | OSError, folder: Path) -> str:
    if isinstance(error, OSError):
        return f"cannot write in {folder}: {error.strerror}; {database_file.write_advice(folder)}"
    return str(error)


def _delete_oldest(folder: Path, keep: int) -> list[str]:
    """Delete all but the newest copies; their names hold the time and sort by it."""
    oldest = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))[:-keep]
    for path in oldest:
        path.unlink(missing_ok=True)
    return [path.name for path in oldest]


def newest_at(plan: BackupPlan, database: Path) -> datetime | None:
    """When the newest copy was made, by its name; None if there is none that can be seen."""
    try:
        names = [
            found[1] for path in (database.parent / plan.folder).iterdir() if (found := _NAME.fullmatch(path.name))
        ]
    except OSError:
        return None
    return datetime.strptime(max(names), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if names else None


def check(
    plan: BackupPlan, database: Path, *, now: datetime, since: datetime | None = None, failure: str | None = None
) -> Finding:
    """Whether the newest copy is as young as the schedule promises.

    The daemon runs `since` then, None: not known. `failure`: why its latest try brought no copy.
    """
    what = "backups"
    if plan.cron is None:
        remedy = 'set [backup] schedule = "03:15", or copy it with `runbridge db backup`'
        return Finding(None, what, f"none are scheduled; {remedy}")
    made_at, folder = newest_at(plan, database), database.parent / plan.folder
    begin = made_at or since
    due_at = begin and CronTrigger.from_crontab(plan.cron, timezone="UTC").get_next_fire_time(None, begin + _TICK)
    said = (
        f"the newest in {folder} is {format_duration(_seconds(now - made_at))} old" if made_at else f"none in {folder}"
    )
    if failure is not None:
        return Finding(False, what, f"{said}; the latest could not be made: {failure}")
    if due_at is not None and due_at + LATE_AFTER < now:
        return Finding(
            False, what, f"{said}; one was due at {format_instant(due_at)}, the log says why (backup.failed)"
        )
    return Finding(None if made_at is None else True, what, said if made_at else f"{said} yet")


def _seconds(age: timedelta) -> int:
    return max(0, round(age.total_seconds()))
