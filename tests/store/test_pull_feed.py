"""The pull feed while others write: it never skips an event and never shows a smaller position than one already seen.

On PostgreSQL a sequence hands out positions before their commit, so a reader could see 7 before 6 is committed, go on
behind 7 and never meet 6. A lock held until the commit keeps the two in one order; here two nodes write at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from bridge.domain.event import Event, EventType, other_event
from bridge.domain.ids import new_id
from bridge.store import events
from bridge.store.database import Database
from bridge.store.postgres.engine import open_unlimited_engine
from bridge.store.transaction import Tx
from tests.support.watching import open_database

WRITERS = 6
TRANSACTIONS = 40


@pytest.fixture
async def nodes(database_url: str) -> AsyncIterator[list[Database]]:
    """Two on PostgreSQL; on SQLite the one that there can be."""
    async with open_database(database_url) as one:
        if one.is_sqlite:
            yield [one]
            return
        two = Database(database_url, one.clock)
        await two.open()
        try:
            yield [one, two]
        finally:
            await two.close()


async def write_some(database: Database, chance: random.Random, recorded: list[str]) -> None:
    """Transactions of one to four events, some of which dawdle before their commit and some fail."""
    for _ in range(TRANSACTIONS):
        told = [
            other_event(new_id("evt"), EventType.CONNECTION_FAILING, {}, now=database.clock.now()) for _ in range(4)
        ]
        told, fails = told[: chance.randint(1, 4)], chance.random() < 0.1

        def work(tx: Tx, told: list[Event] = told, *, fails: bool = fails) -> None:
            events.record_events(tx, told[:1])
            if tx.is_postgresql:
                tx.connection.execute(sa.text("SELECT pg_sleep(:s)"), {"s": chance.uniform(0, 0.005)})
            events.record_events(tx, told[1:])
            if fails:
                raise ZeroDivisionError

        try:
            await database.write(work)
        except ZeroDivisionError:
            continue
        recorded += [event.id for event in told]


async def read_along(database: Database, done: asyncio.Event, chance: random.Random) -> list[tuple[int, str]]:
    """Read the feed behind the last position again and again, until everything is written and read."""
    seen: list[tuple[int, str]] = []
    while True:
        was_done = done.is_set()
        after = seen[-1][0] if seen else 0
        page = await database.read(
            lambda tx, after=after: events.list_feed(tx, after=after, limit=chance.randint(1, 20))
        )
        seen += [(event.position or 0, event.id) for event in page]
        if was_done and not page:
            return seen
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_a_reader_sees_every_event_once_and_in_order_while_several_write(nodes: list[Database]) -> None:
    chance, done, recorded = random.Random(5), asyncio.Event(), list[str]()
    readers = [asyncio.create_task(read_along(database, done, chance)) for database in nodes * 2]
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(write_some(nodes[number % len(nodes)], random.Random(number), recorded))
    done.set()
    for seen in await asyncio.gather(*readers):
        positions = [position for position, _ in seen]
        assert positions == sorted(set(positions))
        assert sorted(event_id for _, event_id in seen) == sorted(recorded)
    assert len(recorded) > WRITERS * TRANSACTIONS


async def test_without_the_lock_this_would_go_wrong(postgresql_url: str) -> None:
    """That the test above can fail: a later position is committed while an earlier one is still open."""
    async with open_database(postgresql_url) as database:
        engine = open_unlimited_engine(database.url)
        first, second = (
            other_event(new_id("evt"), EventType.BRIDGE_PING, {}, now=database.clock.now()) for _ in range(2)
        )
        async with engine.begin() as held_open:
            await held_open.run_sync(lambda sync: _insert(sync, first.id, first.body))
            async with engine.begin() as connection:
                await connection.run_sync(lambda sync: _insert(sync, second.id, second.body))
            (seen,) = await database.read(lambda tx: events.list_feed(tx, after=0, limit=9))
            assert seen.id == second.id
        missed = await database.read(lambda tx: events.list_feed(tx, after=seen.position or 0, limit=9))
        assert missed == []


def _insert(connection: sa.Connection, event_id: str, body: bytes) -> None:
    statement = "INSERT INTO events (id, type, created_at, body) VALUES (:i, 'bridge.ping', 0, :b)"
    connection.execute(sa.text(statement), {"i": event_id, "b": body})
