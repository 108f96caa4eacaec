"""Notifications between nodes through PostgreSQL, and a server that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from bridge.domain.errors import StoreUnavailable
from bridge.store import nodes, run_leases, runs
from bridge.store.database import Database
from bridge.store.postgres import notifications
from bridge.store.transaction import CommitSignals, Tx
from tests.support.cuttable_proxy import CuttableProxy
from tests.support.postgres import Postgres
from tests.support.watching import open_database, register


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    """With two nodes signed on."""
    async with open_database(postgresql_url) as opened:
        await opened.write(lambda tx: nodes.join(tx, node="node_2", host="there", pid=2, version="0"))
        yield opened


async def test_what_one_node_commits_another_hears(database: Database, another) -> None:
    other, heard, own = await another(), asyncio.Queue[CommitSignals](), list[CommitSignals]()
    other.listeners.append(heard.put_nowait)
    ear, echo = other.notify_listener(), database.notify_listener()
    await asyncio.gather(ear.keep_open(60), echo.keep_open(5))
    await ear.keep_open(60)
    database.has_other_nodes = True
    database.listeners.append(own.append)
    run = await register(database)
    await database.write(lambda tx: run_leases.request_poll(tx, run.id))
    await database.write(lambda tx: runs.delete_run(tx, run.id))
    async with asyncio.timeout(60):
        first, second, third = [await heard.get() for _ in range(3)]
    assert first.connections_due == {"dify-prod"}
    assert second.poll_requested_run_ids == {run.id}
    assert third.deleted_run_ids == {run.id}
    assert len(own) == 3, "each once, not again by way of the server"
    ear.close()
    echo.close()


async def test_what_is_undone_is_not_announced(database: Database, another) -> None:
    other, heard = await another(), asyncio.Queue[CommitSignals]()
    other.listeners.append(heard.put_nowait)
    ear = other.notify_listener()
    await ear.keep_open(60)
    database.has_other_nodes = True

    def fail(tx: Tx) -> None:
        tx.signals.connections_due.add("never")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(fail)
    await register(database)
    async with asyncio.timeout(60):
        assert (await heard.get()).connections_due == {"dify-prod"}
    ear.close()


def test_a_notice_says_what_was_announced() -> None:
    said = CommitSignals(
        connections_due={"a", "b"},
        deliveries_due=True,
        replays_due=True,
        events_recorded=True,
        settled_run_ids={"run_1"},
        poll_requested_run_ids={"run_2"},
        deleted_run_ids={"run_3"},
        nodes_changed=True,
        endpoints_changed=True,
    )
    assert notifications.decode(notifications.encode(said, "me") or "") == ("me", said)
    assert notifications.encode(CommitSignals(), "me") is None


def test_a_notice_always_fits_into_what_postgresql_carries() -> None:
    many = {f"run_{'x' * 60}{number:04}" for number in range(1000)}
    payload = notifications.encode(
        CommitSignals(many, True, settled_run_ids=many, poll_requested_run_ids=many, deleted_run_ids=many), "me"
    )
    assert payload is not None
    assert len(payload) < 8000
    sender, heard = notifications.decode(payload)
    assert (sender, heard.deliveries_due) == ("me", True)
    assert heard.settled_run_ids < many


@pytest.mark.parametrize("payload", ["", "[]", "{}", '"x"', '{"n":1', '{"n":"a","s":3}', "null"])
def test_a_notice_that_makes_no_sense_announces_nothing(payload: str) -> None:
    assert notifications.decode(payload)[1] == CommitSignals()


@pytest.mark.slow
async def test_a_database_that_is_silent_is_given_up_in_time_and_found_again(
    postgres: Postgres, postgresql_url: str, another
) -> None:
    async with CuttableProxy(postgres.port) as cable:
        database = await another(url=postgresql_url.replace(f":{postgres.port}/", f":{cable.port}/"))
        ear = database.notify_listener()
        await ear.keep_open(60)
        await database.write_reserved(nodes.list_nodes, 5)
        cable.cut()
        for _ in range(2):  # an open connection, then a new one
            with pytest.raises(StoreUnavailable):
                await database.write_reserved(nodes.list_nodes, 0.2)
        with pytest.raises(StoreUnavailable):
            await ear.keep_open(0.2)
        cable.mend()
        assert await database.write_reserved(nodes.list_nodes, 5) == []
        await ear.keep_open(60)
        ear.close()


async def test_a_daemon_ends_although_its_database_is_silent(postgres: Postgres, postgresql_url: str, another) -> None:
    """A firewall may have forgotten connections that nothing used for an hour; nothing that is sent there comes back."""
    async with CuttableProxy(postgres.port) as cable:
        database = await another(url=postgresql_url.replace(f":{postgres.port}/", f":{cable.port}/"))
        await database.write_reserved(nodes.list_nodes, 60)
        await database.read(nodes.list_nodes)
        cable.half_open()
        closing = asyncio.create_task(database.close())
        done, _ = await asyncio.wait({closing}, timeout=60)
        assert done == {closing}, "it waits for an answer"
        await closing


async def test_what_the_server_ends_is_no_fault_of_ours(database: Database) -> None:
    """Shut down, starting up, ended by an operator: it comes back, and so StoreUnavailable, which everybody rides out."""

    def be_ended(tx: Tx) -> None:
        tx.connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailable):
        await database.write(be_ended)
    assert [node.id for node in await database.read(nodes.list_nodes)] == ["node_1", "node_2"]


async def test_a_server_that_takes_no_writes_is_named_as_one_with_what_to_do(database: Database) -> None:
    """The primary was demoted, or the address leads to a standby."""

    def write(tx: Tx) -> None:
        tx.connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        nodes.join(tx, node="node_3", host="there", pid=3, version="0")

    with pytest.raises(StoreUnavailable, match=r"name the primary in \[database\] url"):
        await database.write(write)


async def test_a_server_that_hangs_up_while_it_is_connected_to_is_unavailable() -> None:
    """A cable that broke in that moment failed the membership's pass with a traceback: no class of ours covered it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")  # no TLS
        await reader.read(1024)
        version = b"server_version\x0016.0\x00"
        writer.write(b"R\0\0\0\x08\0\0\0\0" + b"S" + (len(version) + 4).to_bytes(4, "big") + version + b"Z\0\0\0\x05I")
        await reader.read(1024)  # the first statement
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listener = notifications.NotifyListener(make_url(f"postgresql://postgres@127.0.0.1:{port}/any"), list[str]().append)
    with pytest.raises(StoreUnavailable):
        await listener.keep_open(60)
    server.close()
