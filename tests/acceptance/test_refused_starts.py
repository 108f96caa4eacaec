"""Refused starts: one sentence, exit code 1, and an untouched database file."""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from bridge.sandbox import Sandbox
from tests.support.daemon_process import TOKEN, DaemonProcess

ONE_SENTENCE = re.compile(r"runbridge: [^\n]{20,}\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def used_database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[bytes]:
    """The file that a daemon with a few runs leaves behind."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("used"))
    async with Sandbox() as sandbox:
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        async with daemon:
            for _ in range(50):
                await daemon.register("dify", sandbox.add_run("dify"))
            await daemon.stop()
    yield daemon.database.read_bytes()


async def refused(daemon: DaemonProcess) -> str:
    """The one sentence with which it ends."""
    code, said = await daemon.run_to_end()
    assert code == 1, said
    assert ONE_SENTENCE.fullmatch(said), said
    assert TOKEN not in said
    return said


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.with_name(path.name + "-wal").unlink(missing_ok=True)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
        connection.execute("INSERT INTO songs VALUES ('Yesterday')")
        connection.commit()


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(path.name + ".lock").touch()  # as the daemon leaves it


def no_database(path: Path) -> None:
    path.write_text("Dear diary,\n")


def read_only(path: Path) -> None:
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (newer, "9999"),
        (foreign, "another program"),
        (corrupt, "damaged"),
        (empty, "empty"),
        (no_database, "not a SQLite database"),
        (read_only, "read-only"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
async def test_a_database_that_is_not_ours_to_open_is_refused_in_one_sentence_and_left_as_it_is(
    used_database: bytes, tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    daemon = DaemonProcess(tmp_path)
    daemon.database.write_bytes(used_database)
    spoil(daemon.database)
    daemon.keeps_to_file_modes = True
    before = daemon.database.read_bytes()
    said = await refused(daemon)
    assert says in said
    assert str(daemon.database) in said or spoil is newer
    assert daemon.database.read_bytes() == before


async def test_a_second_daemon_on_the_same_file_is_refused_and_the_first_works_on(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        first = DaemonProcess(tmp_path)
        first.add_connection("dify", "dify", sandbox.url("dify"))
        (tmp_path / "second").mkdir()
        second = DaemonProcess(tmp_path / "second", f"sqlite:///{first.database}")
        async with first:
            said = await refused(second)
            assert f"pid {first.pid}" in said
            run = await first.register("dify", sandbox.add_run("dify"))
            assert (await first.finish_of(run["id"]))["status"] == "succeeded"
            await first.stop()
        async with second:  # the lock ends with the daemon that held it
            assert (await second.ask("GET", f"/v1/runs/{run['id']}"))["status"] == "succeeded"


async def test_an_address_that_is_taken_is_named_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken_port = taken.getsockname()[1]
        daemon = DaemonProcess(tmp_path)
        daemon.config["server"]["listen"] = f"127.0.0.1:{taken_port}"
        daemon.config["log"]["level"] = "error"
        said = await refused(daemon)
    assert f":{taken_port}: address already in use; is another daemon there?" in said


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("192.0.2.1:0", "the address is not one of this machine's"),
        ("unix:/nowhere/api.sock", "the folder of the socket does not exist"),
        ("no-such-name.invalid:0", "the name of the host is not known"),
    ],
)
async def test_an_address_that_cannot_be_bound_is_refused_with_its_own_remedy(
    tmp_path: Path, listen: str, says: str
) -> None:
    daemon = DaemonProcess(tmp_path)
    daemon.config["server"]["listen"] = listen
    daemon.config["log"]["level"] = "error"
    said = await refused(daemon)
    assert f"cannot listen on {listen}: {says}" in said
    assert "another daemon" not in said


async def test_a_postgresql_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        daemon = DaemonProcess(tmp_path, f"postgresql://runbridge:hunter2-hunter2@127.0.0.1:{port}/runbridge")
        said = await refused(daemon)
    assert f"127.0.0.1:{port}/runbridge: Connection refused" in said
    assert "hunter2" not in said


async def test_a_postgresql_without_that_database_is_refused_in_its_own_words(
    postgresql_url: str, tmp_path: Path
) -> None:
    daemon = DaemonProcess(tmp_path, postgresql_url.rpartition("/")[0] + "/nowhere")
    said = await refused(daemon)
    assert ': database "nowhere" does not exist' in said
    assert "sqlalchemy" not in said


async def test_a_postgresql_database_newer_than_the_code_is_refused(postgresql_url: str, tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, postgresql_url)
    async with daemon:
        await daemon.stop()
    await set_revision(postgresql_url, "9999")
    assert "9999" in await refused(daemon)


async def set_revision(url: str, revision: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute("UPDATE runbridge_schema_version SET version_num = $1", revision)
    finally:
        await connection.close()


MISTAKES = {
    "no TOML": ("[server\n", 1, ["config.toml"]),
    "unknown key": (f'[server]\napi_token = "{TOKEN}"\nlistn = "127.0.0.1:0"\n', 1, ["server.listn", "listen"]),
    "all at once": (
        (
            f'[server]\napi_token = "{TOKEN}"\nlisten = 17\n'
            '[connections.a]\nprovider = "difi"\napi_key = "key-that-must-not-be-seen"\n'
            '[endpoints.b]\nurl = "nonsense"\nsecret = "whsec_that-must-not-be-seen"\n'
        ),
        4,
        ["server.listen", "connections.a.provider", "dify", "endpoints.b.url", "endpoints.b.secret"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_each_mistake_in_the_configuration_is_a_line_with_key_and_remedy(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, lines, words = MISTAKES[mistake]
    daemon = DaemonProcess(tmp_path)
    monkeypatch.setattr(daemon, "write_config", lambda: daemon.config_path.write_text(text))
    code, said = await daemon.run_to_end()
    assert code == 1
    assert len(said.splitlines()) == lines, said
    assert all(word in said for word in words), said
    assert "must-not-be-seen" not in said
    assert not daemon.database.exists()
