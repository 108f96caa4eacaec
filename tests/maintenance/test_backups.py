"""Scheduled backups: whole copies under names that sort by time, of which the newest are kept."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.domain.errors import DatabaseRefused
from bridge.maintenance import backups
from bridge.maintenance.backups import BackupPlan, make_backup
from bridge.store.database import Database
from bridge.store.sqlite import backup
from tests.support.daemon_process import DaemonProcess
from tests.support.manual_clock import ManualClock
from tests.support.watching import open_database, register

START = datetime(2026, 1, 15, 3, 15, tzinfo=UTC)
DAY_S = 86400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
async def database(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Database]:
    async with open_database(f"sqlite:///{tmp_path / 'runbridge.db'}", clock) as opened:
        yield opened


def plan(folder: str = "backups", *, keep: int = 7) -> BackupPlan:
    return BackupPlan("15 3 * * *", folder, keep)


async def test_a_copy_holds_what_was_committed_and_belongs_to_the_daemon_alone(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    run = await register(database)
    with capture_logs() as logs:
        made = await make_backup(database, clock, plan())
    assert made == tmp_path / "backups/runbridge-20260115T031500Z.db"
    with sqlite3.connect(f"file:{made}?mode=ro", uri=True) as copy:
        assert copy.execute("SELECT id FROM runs").fetchall() == [(run.id,)]
    copy.close()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made.parent, made)] == [0o700, 0o600]
    (line,) = logs
    assert (line["event"], line["file"], line["size_bytes"]) == ("backup.made", str(made), made.stat().st_size)


async def test_only_the_newest_copies_are_kept_and_nothing_else_is_touched(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "runbridge-by-hand.db").touch()
    for _ in range(4):
        with capture_logs() as logs:
            await make_backup(database, clock, plan(str(folder), keep=2))
        clock.advance(DAY_S)
    kept = {f"runbridge-{START + timedelta(days=day):%Y%m%dT%H%M%SZ}.db" for day in (2, 3)}
    assert {path.name for path in folder.iterdir()} == {*kept, "runbridge-by-hand.db"}
    assert logs[0]["deleted"] == ["runbridge-20260116T031500Z.db"]


async def test_what_a_killed_process_left_half_written_is_deleted_but_not_what_is_being_written(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    left, growing = (folder / f".runbridge-20260114T031500Z.db.partial-{pid}" for pid in (2**22 + 1, os.getppid()))
    left.touch()
    growing.touch()
    await make_backup(database, clock, plan())
    assert (left.exists(), growing.exists()) == (False, True)


async def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "backups").touch()
    with capture_logs() as logs:
        assert isinstance(await make_backup(database, clock, plan()), str)
    assert [(line["event"], line["log_level"]) for line in logs] == [("backup.failed", "error")]
    assert f"cannot write in {tmp_path / 'backups'}" in logs[0]["reason"]


async def test_a_copy_that_is_not_sound_does_not_push_out_the_good_ones(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = await make_backup(database, clock, plan(keep=1))
    assert isinstance(good, Path)
    clock.advance(DAY_S)

    def refuse(*_: object) -> None:
        raise DatabaseRefused("the copy is not sound")

    monkeypatch.setattr(backups.backup, "back_up", refuse)
    with capture_logs() as logs:
        assert isinstance(await make_backup(database, clock, plan(keep=1)), str)
    assert logs[0]["reason"] == "the copy is not sound"
    assert list(good.parent.iterdir()) == [good]


async def test_a_daemon_that_stops_does_not_wait_for_the_copy(
    database: Database, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one takes longer than systemd waits; what was copied so far goes."""
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 1)
    copying = asyncio.create_task(make_backup(database, clock, plan()))
    folder = tmp_path / "backups"
    async with asyncio.timeout(60):
        while not folder.exists() or not list(folder.iterdir()):
            assert not copying.done()
            await asyncio.sleep(0)
        copying.cancel()
        while list(folder.iterdir()):
            await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await copying


@pytest.mark.slow
async def test_a_daemon_makes_backups_by_its_schedule_and_a_reload_changes_it(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, backup={"schedule": "* * * * *", "keep": 3})
    async with daemon:
        made = await daemon.wait_for_log("backup.made", timeout_s=90)
        assert Path(made["file"]).parent == tmp_path / "backups"
        daemon.config["backup"] = {"schedule": "03:15", "folder": str(tmp_path / "elsewhere")}
        await daemon.reload()
