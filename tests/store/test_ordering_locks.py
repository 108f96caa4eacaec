"""Changes of an endpoint while events are recorded for it: one waits for the other, and nothing stays behind.

The first transaction stands still for a moment before its commit, with all its locks; the second one comes then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import sqlalchemy as sa

from bridge.domain.run import Run
from bridge.domain.transition import observe
from bridge.store import deliveries, endpoints, events, replays, runs
from bridge.store.database import Database
from bridge.store.tables import deliveries as owed
from bridge.store.transaction import Tx
from tests.support.watching import add_endpoint, open_database, record, register, seen

Work = Callable[[Tx], object]


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    async with open_database(postgresql_url) as opened:
        yield opened


async def meet(database: Database, first: Work, second: Work) -> None:
    """`first` commits when `second` waits for one of its locks, or has committed without."""
    is_done, has_followed = asyncio.Event(), asyncio.Event()

    def linger(tx: Tx) -> None:
        first(tx)
        is_done.set()
        waiting = sa.text("SELECT pg_sleep(0.002), EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        while not has_followed.is_set() and not tx.connection.execute(waiting).one()[1]:
            pass

    async def follow() -> None:
        await is_done.wait()
        await database.write(second)
        has_followed.set()

    await asyncio.gather(database.write(linger), follow())


def finishing(run: Run) -> Work:
    """Work that records the end of a run."""

    def work(tx: Tx) -> None:
        decision = observe(run, seen("succeeded"), now=tx.now, wants_progress=False)
        assert decision is not None
        assert runs.record_decision(tx, run, decision, node=None, keep_lease=False)

    return work


async def held_back(database: Database) -> list[int]:
    """The sequences of the deliveries that wait and have no due time."""
    query = sa.select(owed.c.sequence).where(owed.c.state == "pending", owed.c.next_attempt_at.is_(None))
    return await database.read(lambda tx: sorted(tx.connection.execute(query).scalars()))


async def test_what_is_recorded_while_the_order_ends_is_not_held_back(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    run = await record(database, await register(database), "running")
    assert run is not None
    await meet(
        database,
        finishing(run),
        lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": False})),
    )
    assert await held_back(database) == []


async def test_what_is_recorded_after_the_order_has_ended_is_not_held_back(database: Database) -> None:
    """It has read the endpoint before."""
    endpoint = await add_endpoint(database, ordered=True)
    run = await record(database, await register(database), "running")
    assert run is not None
    await meet(
        database,
        lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": False})),
        finishing(run),
    )
    assert await held_back(database) == []


async def test_an_endpoint_that_is_switched_on_while_its_order_ends_gets_everything(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    run = await record(database, await register(database), "running")
    assert run is not None
    await record(database, run, "succeeded")
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))

    def end_order(tx: Tx) -> None:
        present = endpoints.get_endpoint(tx, endpoint.id, to_change=True)
        assert present is not None
        endpoints.update_endpoint(tx, present.model_copy(update={"ordered": False}))

    await meet(database, lambda tx: endpoints.enable_endpoint(tx, endpoint.id), end_order)
    assert await held_back(database) == []


async def test_two_changes_at_the_same_moment_are_both_made(database: Database) -> None:
    endpoint = await add_endpoint(database)

    def change(**given: object) -> Work:
        def work(tx: Tx) -> None:
            present = endpoints.get_endpoint(tx, endpoint.id, to_change=True)
            assert present is not None
            endpoints.update_endpoint(tx, present.model_copy(update=given))

        return work

    await meet(database, change(description="ours"), change(ordered=True))
    found = await database.read(lambda tx: endpoints.get_endpoint(tx, endpoint.id))
    assert found is not None
    assert (found.description, found.ordered) == ("ours", True)


async def test_what_a_replay_holds_back_while_the_order_ends_goes_too(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    run = await record(database, await register(database), "running")
    assert run is not None
    await record(database, run, "succeeded")
    settled = sa.update(owed).values(state="exhausted", next_attempt_at=None)
    await database.write(lambda tx: tx.connection.execute(settled))
    found = await database.read(
        lambda tx: deliveries.list_deliveries(tx, deliveries.DeliveryFilter(), limit=9, before=None)
    )
    told = {each.event_id: each.id for each in found}

    def again(tx: Tx) -> None:
        replays.resend(tx, endpoint, events.list_run_events(tx, run.id), told)

    await meet(
        database, again, lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": False}))
    )
    assert await held_back(database) == []
