"""An event that is recorded while an endpoint is changed, by this node or another one, precedes the change or sees it.

The feed is held until both wait for it, so that the second of them has read what the first is about to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from bridge.api.request_models import RunBody, WebhookBody
from bridge.api.runs import Registration
from bridge.api.runs import register as register_again
from bridge.domain.connection import Connection
from bridge.domain.endpoint import Endpoint
from bridge.domain.event import Event
from bridge.domain.replay import ReplayStatus, Selection
from bridge.domain.run import Run
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.transition import observe
from bridge.store import endpoints, events, replays, runs
from bridge.store.database import Database
from bridge.store.ordering import FEED_LOCK
from bridge.store.postgres.engine import open_unlimited_engine
from bridge.store.runs import RunChange
from bridge.store.tables import deliveries
from bridge.store.transaction import Tx
from tests.support.waiting import until
from tests.support.watching import add_endpoint, connected, new_run, open_database, seen

Step = Callable[[], Awaitable[object]]
Change = Callable[[Tx, Endpoint], object]
BOTH_WAYS = pytest.mark.parametrize("as_one_statement", [True, False], ids=["one statement", "transaction"])
EITHER = pytest.mark.parametrize("event_is_first", [True, False], ids=["event first", "change first"])


@dataclass
class TwoNodes:
    """The same database as two nodes have it open, and a connection that watches their locks."""

    recorder: Database
    changer: Database
    beside: AsyncConnection

    async def in_turn(self, *steps: Step) -> None:
        """Start each step when the one before waits for the feed or has ended, then let the feed go on."""
        await self.beside.execute(sa.select(sa.func.pg_advisory_lock(FEED_LOCK)))
        begun: list[asyncio.Future[object]] = []
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")

        async def stands() -> bool:
            return await self.beside.scalar(waiting) == sum(not one.done() for one in begun)

        for step in steps:
            begun.append(asyncio.ensure_future(step()))
            await until(stands, what="a step waits or has ended")
        await self.beside.execute(sa.select(sa.func.pg_advisory_unlock(FEED_LOCK)))
        await asyncio.gather(*begun)

    async def record_end(self, run: Run, *, as_one_statement: bool = True) -> None:
        def work(tx: Tx) -> None:
            decision = observe(run, seen("succeeded"), now=tx.now, wants_progress=False)
            assert decision is not None
            assert all(runs.record_decisions(tx, [RunChange(run, decision)], node=None, keep_lease=False))

        await (self.recorder.write_plain(work) if as_one_statement else self.recorder.write(work))

    async def register(self, *names: str) -> list[Run]:
        return await self.recorder.write(lambda tx: runs.insert_runs(tx, [new_run(name) for name in names]))

    async def deliveries_of(self, endpoint_id: str) -> list[tuple[str, str, bool]]:
        """The event, the state and whether it is due, of each delivery."""
        query = sa.select(deliveries.c.event_id, deliveries.c.state, deliveries.c.next_attempt_at.is_not(None))
        found = query.where(deliveries.c.endpoint_id == endpoint_id)
        return await self.recorder.read(lambda tx: [(row[0], row[1], row[2]) for row in tx.connection.execute(found)])

    async def events_after(self, position: int) -> list[Event]:
        return await self.recorder.read(lambda tx: events.list_feed(tx, after=position, limit=10))


@pytest.fixture
async def nodes(postgresql_url: str) -> AsyncIterator[TwoNodes]:
    beside = open_unlimited_engine(make_url(postgresql_url)).connect()
    async with open_database(postgresql_url) as recorder, connected(postgresql_url) as changer, beside:
        yield TwoNodes(recorder, changer, await beside.execution_options(isolation_level="AUTOCOMMIT"))


def create(tx: Tx, endpoint: Endpoint) -> None:
    endpoints.remove_endpoint(tx, endpoint.id)
    another = endpoint.model_copy(update={"id": f"{endpoint.id}_new"})
    endpoints.insert_endpoint(tx, another, Secret(new_secret()))


def widen(tx: Tx, endpoint: Endpoint) -> None:
    endpoints.enable_endpoint(tx, endpoint.id)
    endpoints.update_endpoint(tx, endpoint.model_copy(update={"filter": None}))


def enable(tx: Tx, endpoint: Endpoint) -> None:
    endpoints.enable_endpoint(tx, endpoint.id)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("change", "event_is_first"), [(enable, True), (enable, False), (create, False), (widen, False)]
)
async def test_an_event_that_no_replay_finds_has_a_delivery(
    nodes: TwoNodes, change: Change, *, event_is_first: bool, as_one_statement: bool
) -> None:
    """A replay of what was missed goes up to the last event that was recorded when it was asked for."""
    never = "data.run.status == 'failed'" if change is widen else None
    endpoint = await add_endpoint(nodes.changer, filter=never)
    if change is not widen:
        await nodes.changer.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    before, run = await nodes.register("a", "b")
    await nodes.record_end(before)
    last: list[int] = []

    def work(tx: Tx) -> int:
        change(tx, endpoint)
        return events.last_position(tx)

    async def change_it() -> None:
        last.append(await nodes.changer.write(work))

    async def record() -> None:
        await nodes.record_end(run, as_one_statement=as_one_statement)

    await nodes.in_turn(*((record, change_it) if event_is_first else (change_it, record)))
    later = await nodes.events_after(last[0])
    assert len(later) == (0 if event_is_first else 1)
    listening = f"{endpoint.id}_new" if change is create else endpoint.id
    assert [event_id for event_id, _, _ in await nodes.deliveries_of(listening)] == [event.id for event in later]


@BOTH_WAYS
@EITHER
async def test_an_endpoint_that_is_off_has_nothing_that_is_due(
    nodes: TwoNodes, *, event_is_first: bool, as_one_statement: bool
) -> None:
    endpoint = await add_endpoint(nodes.changer)
    before, run = await nodes.register("a", "b")
    await nodes.record_end(before)

    async def change_it() -> None:
        await nodes.changer.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))

    async def record() -> None:
        await nodes.record_end(run, as_one_statement=as_one_statement)

    await nodes.in_turn(*((record, change_it) if event_is_first else (change_it, record)))
    found = await nodes.deliveries_of(endpoint.id)
    assert [(state, is_due) for _, state, is_due in found] == [("pending", False)] * (2 if event_is_first else 1)


@BOTH_WAYS
@EITHER
async def test_an_endpoint_that_was_removed_has_nothing_that_is_pending(
    nodes: TwoNodes, *, event_is_first: bool, as_one_statement: bool
) -> None:
    """It would be sent without a signature, or stay pending for ever."""
    endpoint = await add_endpoint(nodes.changer)
    before, run = await nodes.register("a", "b")
    await nodes.record_end(before)
    discarded: list[int] = []

    async def change_it() -> None:
        discarded.append(await nodes.changer.write(lambda tx: endpoints.remove_endpoint(tx, endpoint.id)))

    async def record() -> None:
        await nodes.record_end(run, as_one_statement=as_one_statement)

    await nodes.in_turn(*((record, change_it) if event_is_first else (change_it, record)))
    found = await nodes.deliveries_of(endpoint.id)
    assert [state for _, state, _ in found] == ["discarded"] * (2 if event_is_first else 1)
    assert discarded == [len(found)]


@EITHER
async def test_a_webhook_that_is_added_to_a_run_as_it_ends_gets_the_end_once(
    nodes: TwoNodes, *, event_is_first: bool
) -> None:
    """Registering again adds it; if the run is over by then, it gets the recorded event at once."""
    before, run = await nodes.register("a", "b")
    await nodes.record_end(before)
    url = "https://app.example.org/one"
    body = RunBody.model_construct(
        connection=run.connection, provider_run_id="b", webhook=WebhookBody.model_construct(url=url)
    )
    connection = Connection(run.connection, "dify", "https://dify.example.org", Secret("key"))

    async def change_it() -> None:
        await nodes.changer.write(lambda tx: register_again(tx, [Registration(body, connection, "b")]))

    async def record() -> None:
        await nodes.record_end(run)

    await nodes.in_turn(*((record, change_it) if event_is_first else (change_it, record)))
    [added] = await nodes.recorder.read(lambda tx: endpoints.list_run_endpoints(tx, [run.id]))
    [event] = (await nodes.events_after(0))[1:]
    assert [(event_id, state) for event_id, state, _ in await nodes.deliveries_of(added.id)] == [(event.id, "pending")]


async def test_what_is_sent_again_while_its_endpoint_is_removed_is_discarded_with_the_rest(nodes: TwoNodes) -> None:
    """A replay makes its batch due without the feed: the removal waits for its commit, so that it sees the batch."""
    endpoint = await add_endpoint(nodes.changer)
    [run] = await nodes.register("a")
    await nodes.record_end(run)
    await nodes.changer.write(lambda tx: tx.connection.execute(sa.delete(deliveries)))
    wanted = Selection(since=run.registered_at, until=None, types=(), status=ReplayStatus.ALL, last_position=None)
    replay = await nodes.changer.write(lambda tx: replays.start_replay(tx, endpoint, wanted, rate=100.0, count=1))
    made, is_waiting = asyncio.Event(), asyncio.Event()

    def send_again(tx: Tx) -> None:
        assert replays.advance(tx, replay.id) is not None
        made.set()
        locked = sa.text("SELECT pg_sleep(0.002), EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        while not is_waiting.is_set() and not tx.connection.execute(locked).one()[1]:
            pass

    async def remove() -> None:
        await made.wait()
        await nodes.changer.write(lambda tx: endpoints.remove_endpoint(tx, endpoint.id))
        is_waiting.set()

    await asyncio.gather(nodes.recorder.write(send_again), remove())
    assert [state for _, state, _ in await nodes.deliveries_of(endpoint.id)] == ["discarded"]
