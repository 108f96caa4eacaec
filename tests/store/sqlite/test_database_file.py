"""The SQLite file: refused in one sentence when it is not ours to open, and never changed by the refusal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.domain.clock import SystemClock
from bridge.domain.errors import DatabaseRefused, StoreUnavailable
from bridge.store import migrate, runs
from bridge.store.database import Database
from bridge.store.sqlite import database_file
from bridge.store.transaction import CommitSignals
from tests.support.watching import new_run, open_database, register


async def refusal(path: Path) -> str:
    """The refusal to open the file, which stays as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DatabaseRefused) as caught:
        await Database(f"sqlite:///{path}", SystemClock()).open()
    assert (path.read_bytes() if path.is_file() else None) == before
    assert not path.with_name(path.name + "-wal").is_file()
    return str(caught.value)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    connection.close()


@pytest.mark.parametrize("trace", ["a.db.lock", "a.db-wal", "secrets.key"])
async def test_an_empty_file_that_was_used_is_not_made_a_new_database(tmp_path: Path, trace: str) -> None:
    """It may be what is left of a database that was cut off."""
    path = tmp_path / "a.db"
    path.touch()
    (tmp_path / trace).touch()
    with pytest.raises(DatabaseRefused, match="is empty"):
        await Database(f"sqlite:///{path}", SystemClock()).open()
    assert path.read_bytes() == b""


async def test_an_empty_file_that_nobody_has_used_becomes_a_database(tmp_path: Path) -> None:
    """As `mktemp` and mounts of single files make them; SQLite takes them too."""
    path = tmp_path / "a.db"
    path.touch()
    async with open_database(f"sqlite:///{path}") as database:
        await register(database)
    path.write_bytes(b"")
    assert "is empty" in await refusal(path)


async def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("[server]\nlisten = …")
    assert "is not a SQLite database" in await refusal(path)


@pytest.mark.parametrize("target", ["nowhere/a.db", "a.db", "text/a.db"])
async def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "text").write_text("a file")
    path = tmp_path / "a.db"
    path.symlink_to(target)
    assert f"is a link that leads nowhere ({target})" in await refusal(path)


async def test_a_link_to_a_file_that_is_made_now_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.symlink_to("b.db")
    async with open_database(f"sqlite:///{path}"):
        assert (tmp_path / "b.db").is_file()


async def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a file")
    assert f"{tmp_path}/text is not a folder" in await refusal(tmp_path / "text" / "a.db")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
async def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A daemon that opened a pipe could not even be stopped."""
    path = tmp_path / "a.db"
    make(path)
    with pytest.raises(DatabaseRefused, match="is a folder, a pipe or a device"):
        await Database(f"sqlite:///{path}", SystemClock()).open()


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    foreign(path)
    assert "belongs to another program" in await refusal(path)


async def test_a_damaged_database_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_database(f"sqlite:///{path}") as database:
        await register(database)
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\x5a" * 8192
    path.write_bytes(content)
    said = await refusal(path)
    assert "is damaged (" in said
    assert "***" not in said
    assert "backup" in said


async def test_a_cut_off_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_database(f"sqlite:///{path}"):
        pass
    path.write_bytes(path.read_bytes()[:8192])
    assert "is damaged" in await refusal(path)


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with open_database(f"sqlite:///{path}"):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(DatabaseRefused, match=r"schema 9999.*install the newer runbridge"):
        await Database(f"sqlite:///{path}", SystemClock()).open()


async def test_a_locked_database_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    async with open_database(f"sqlite:///{path}"):
        pass
    monkeypatch.setattr(database_file, "BUSY_TIMEOUT_S", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=DELETE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseRefused, match="locked by another program"):
        await Database(f"sqlite:///{path}", SystemClock()).open()
    other.close()


async def test_a_second_daemon_is_kept_out_and_the_error_names_the_first(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with open_database(url):
        with pytest.raises(DatabaseRefused, match=r"another runbridge \(pid \d+ on .*\) is using"):
            await Database(url, SystemClock()).open()
    async with open_database(url):
        pass


async def test_a_folder_that_cannot_be_written_is_named() -> None:
    """Not even root makes a file there."""
    with pytest.raises(DatabaseRefused, match="cannot write in /proc: "):
        await Database("sqlite:////proc/runbridge.db", SystemClock()).open()


async def test_a_full_disk_says_so_undoes_everything_and_heals(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path / 'a.db'}") as database:
        await register(database, "before")
        pages = await database.read(lambda tx: tx.connection.execute(sa.text("PRAGMA page_count")).scalar())
        await limit_pages(database, pages)
        with pytest.raises(StoreUnavailable, match=r"disk .* is full"):
            await database.write(
                lambda tx: runs.insert_runs(tx, [new_run(f"r{n}", metadata={"x": "y" * 4000}) for n in range(99)])
            )
        assert len(await database.read(lambda tx: runs.find_watched(tx, "dify-prod", ["before", "r0"]))) == 1
        said: list[CommitSignals] = []
        database.listeners.append(said.append)
        await limit_pages(database, 1_000_000)
        await register(database, "after")
        assert [each.is_in_doubt for each in said] == [True, False], "pollers compare, once: leases may be theirs"


async def limit_pages(database: Database, pages: int) -> None:
    await database.write(lambda tx: tx.connection.execute(sa.text(f"PRAGMA max_page_count={pages}")).scalar())


async def test_the_writer_is_durable_and_readers_cannot_write(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path / 'a.db'}") as database:

        def pragma(name: str) -> object:
            return lambda tx: tx.connection.execute(sa.text(f"PRAGMA {name}")).scalar()

        assert await database.write(pragma("synchronous")) == 2
        assert await database.write(pragma("journal_mode")) == "wal"
        assert await database.read(pragma("query_only")) == 1
        assert await database.read(pragma("wal_autocheckpoint")) == 0
        with pytest.raises(StoreUnavailable):
            await database.read(lambda tx: runs.insert_runs(tx, [new_run()]))


async def test_the_head_in_the_code_is_the_newest_step() -> None:
    assert migrate.pending(None)[-1] == migrate.HEAD


@pytest.mark.parametrize(
    ("version", "faulty"),
    [
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 4), False),
    ],
)
def test_the_sqlite_versions_with_the_wal_reset_fault_are_known(version: tuple[int, ...], faulty: bool) -> None:
    assert database_file.has_wal_reset_fault(version) is faulty
