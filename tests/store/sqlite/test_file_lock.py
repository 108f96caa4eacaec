"""The SQLite file under a running daemon: deleted, replaced, opened twice, damaged, locked by another program."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.domain.clock import SystemClock
from bridge.domain.errors import DatabaseRefused, StoreUnavailable
from bridge.store import runs
from bridge.store.database import Database
from bridge.store.sqlite import database_file
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import open_database, register


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runbridge.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with open_database(f"sqlite:///{path}") as opened:
        yield opened


async def refusal(path: Path) -> str:
    with pytest.raises(DatabaseRefused) as caught:
        await Database(f"sqlite:///{path}", SystemClock()).open()
    return str(caught.value)


async def fails(database: Database, said: str) -> None:
    """Reads and writes alike, and the daemon knows that it is not ready."""
    with pytest.raises(StoreUnavailable, match=said):
        await register(database, "late")
    with pytest.raises(StoreUnavailable, match=said):
        await database.read(lambda tx: runs.get_run(tx, "run_1"))
    with pytest.raises(StoreUnavailable, match=said):
        await database.check_file()
    assert not database.is_available


async def test_a_deleted_file_fails_reads_and_writes(database: Database, path: Path) -> None:
    path.unlink()
    await fails(database, "was deleted or moved")


async def test_a_file_that_was_moved_is_used_again_when_it_is_back(database: Database, path: Path) -> None:
    run = await register(database)
    path.rename(path.with_name("elsewhere.db"))
    await fails(database, "put it back")
    path.with_name("elsewhere.db").rename(path)
    await register(database, "more")
    assert await database.read(lambda tx: runs.get_run(tx, run.id)) == run
    assert database.is_available


async def test_a_file_that_is_cut_off_is_said_to_need_the_backup(database: Database, path: Path) -> None:
    await register(database)
    os.truncate(path, 0)
    with pytest.raises(StoreUnavailable, match="restore the last backup"):
        await database.read(lambda tx: runs.get_run(tx, "run_1"))


async def test_a_replaced_file_fails_reads_and_writes(database: Database, path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.replace(path)
    await fails(database, "was replaced")


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
async def test_a_deleted_wal_is_noticed_and_a_restart_saves_what_it_held(path: Path, ending: str) -> None:
    """Without the -shm, another program that opens the file makes a second one and writes past the daemon."""
    async with open_database(f"sqlite:///{path}") as opened:
        run = await register(opened)
        path.with_name(path.name + ending).unlink()
        await fails(opened, "restart the daemon")
    database = Database(f"sqlite:///{path}", SystemClock())
    await database.open()
    try:
        assert await database.read(lambda tx: runs.get_run(tx, run.id)) == run
    finally:
        await database.close()


async def test_a_file_is_refused_a_second_time_under_any_name(database: Database, path: Path, tmp_path: Path) -> None:
    link, hard = tmp_path / "sub" / "link.db", tmp_path / "hard.db"
    link.parent.mkdir()
    link.symlink_to(path)
    os.link(path, hard)
    for name in (path, link, hard):
        assert "another runbridge" in await refusal(name)
    path.with_name(path.name + ".lock").unlink()
    assert "another runbridge" in await refusal(path)


@pytest.mark.parametrize("trace", ["runbridge.db.lock", "runbridge.db-wal", "secrets.key"])
async def test_a_missing_file_is_not_made_again_where_it_was_used(path: Path, trace: str) -> None:
    path.with_name(trace).touch()
    said = await refusal(path)
    assert "is missing" in said
    assert trace in said
    assert not path.exists()


async def test_the_key_of_another_database_in_the_folder_is_no_trace(database: Database, path: Path) -> None:
    path.with_name("secrets.key").touch()
    async with open_database(f"sqlite:///{path.with_name('second.db')}") as second:
        assert await register(second)


async def test_a_first_start_that_failed_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "runbridge.db"
    folder.mkdir()
    assert await refusal(folder)
    folder.rmdir()
    async with open_database(f"sqlite:///{folder}") as opened:
        await register(opened)


async def test_a_query_in_the_url_is_refused(tmp_path: Path) -> None:
    assert "no parameters" in await refusal(tmp_path / "x?.db")
    assert list(tmp_path.iterdir()) == []


async def test_damaged_pages_are_a_sentence_for_readers_too(path: Path) -> None:
    async with open_database(f"sqlite:///{path}") as opened:
        run = await register(opened)
    database = Database(f"sqlite:///{path}", SystemClock())
    await database.open()
    try:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        with pytest.raises(StoreUnavailable, match="damaged"):
            await database.read(lambda tx: runs.get_run(tx, run.id))
        with pytest.raises(StoreUnavailable, match="damaged"):
            await database.check_file()
        assert not database.is_available
    finally:
        await database.close()


async def test_a_file_that_is_damaged_stays_unavailable_though_other_pages_can_be_written(path: Path) -> None:
    """Such a write made `/readyz` say ready again, while reads answered 503."""
    async with open_database(f"sqlite:///{path}"):
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'replays'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    clock = ManualClock(START)
    database = Database(f"sqlite:///{path}", clock)
    await database.open()
    try:
        with path.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)
        with pytest.raises(StoreUnavailable, match="damaged"):
            await database.read(lambda tx: tx.connection.exec_driver_sql("SELECT * FROM replays").all())
        await register(database)
        clock.advance(3600)
        assert not database.is_available
    finally:
        await database.close()


@pytest.mark.slow
async def test_a_foreign_write_lock_is_answered_within_five_seconds(database: Database, path: Path) -> None:
    """Also to the caller that comes while another one waits for it."""
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    waiting = [asyncio.create_task(register(database, f"r{number}")) for number in range(3)]
    while loop.time() < began_at + 1:
        await asyncio.wait(waiting, timeout=0.1)
    waiting.append(asyncio.create_task(register(database, "late")))
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, StoreUnavailable)
        assert "another program holds the database locked" in str(answer)
    assert loop.time() - began_at < 5
    foreign.execute("ROLLBACK")
    foreign.close()
    await register(database, "after")


async def test_a_database_that_is_closed_twice_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    """The number of a closed descriptor soon belongs to another file, which would be cut to nothing."""
    database = Database(f"sqlite:///{tmp_path}/a.db", SystemClock())
    await database.open()
    await database.close()
    other = tmp_path / "other"
    other.write_text("kept")
    held = [os.open(other, os.O_RDWR) for _ in range(20)]
    try:
        await database.close()
        assert other.read_text() == "kept"
        assert all(os.fstat(descriptor) for descriptor in held)
    finally:
        for descriptor in held:
            os.close(descriptor)


async def test_a_file_that_another_daemon_took_in_the_meantime_lets_go_of_the_lock(tmp_path: Path) -> None:
    """Both begin where no file is yet: one makes it, the other finds it locked and leaves `.lock` to the next."""
    path = tmp_path / "a.db"
    lock = database_file.FileLock.take(path)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatabaseRefused, match="another runbridge is using"):
            lock.take_file()
        lock.release()
    database_file.FileLock.take(path).release()
    assert path.is_file()
