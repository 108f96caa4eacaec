"""The replayer: rate, order, crash, and never far ahead of what its endpoint takes."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
import structlog

from bridge.delivery.replayer import FAR_AHEAD_REST_S, SWITCHED_OFF_REST_S, Replayer
from bridge.domain.delivery import Delivery, DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import Endpoint
from bridge.domain.replay import Replay, ReplayState, ReplayStatus, Selection
from bridge.store import attempts, deliveries, endpoints, events, replays
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import DeliveryFilter
from bridge.store.transaction import Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import NODE, add_endpoint, only, open_database, record, register


@pytest.fixture
def database(either: Database) -> Database:
    return either


async def finish_runs(database: Database, number: int) -> None:
    for index in range(number):
        await record(database, await register(database, f"r-{index}"), "succeeded")


async def start(
    database: Database, endpoint: Endpoint, *, rate: float = 50, status: ReplayStatus = ReplayStatus.ALL
) -> Replay:
    def work(tx: Tx) -> Replay:
        wanted = Selection(START, status=status, last_position=events.last_position(tx))
        count, _ = replays.count_selected(tx, endpoint, wanted, after=0)
        return replays.start_replay(tx, endpoint, wanted, rate=rate, count=count)

    return await database.write(work)


async def look(database: Database, replay: Replay) -> Replay:
    found = await database.read(lambda tx: replays.get_replay(tx, replay.id))
    assert found is not None
    return found


async def owed(database: Database) -> list[Delivery]:
    return await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=10_000, before=None))


async def take(database: Database, endpoint: Endpoint, limit: int = 1000) -> list[str]:
    """The endpoint takes what is due; the types, as they came."""

    def work(tx: Tx) -> list[str]:
        claimed = deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint.id, limit=limit)
        for one in claimed:
            answer = PostResult(Outcome.DELIVERED, 1, 204)
            result = AttemptResult(one.delivery, tx.now, answer, DeliveryState.DELIVERED, None)
            attempts.record_attempts(tx, node=NODE, results=[result])
        return [one.delivery.event_type for one in claimed]

    return await database.write(work)


async def test_no_more_is_made_due_in_a_second_than_the_rate_allows(database: Database, clock: ManualClock) -> None:
    await finish_runs(database, 12)
    endpoint = await add_endpoint(database)
    replay = await start(database, endpoint, rate=5)
    replayer = Replayer(database=database, clock=clock)
    seen = []
    while (rest_s := await replayer.run_pass()) != math.inf:
        seen.append(((await look(database, replay)).replayed, rest_s))
        clock.advance(rest_s)
    assert seen == [(5, 1.0), (10, 1.0)]
    done = await look(database, replay)
    assert (done.state, done.replayed, done.count, done.finished_at) == (ReplayState.DONE, 12, 12, clock.now())


async def test_the_end_of_a_replay_is_logged_by_the_node_that_ended_it(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other nodes saw it running a moment before."""
    await finish_runs(database, 2)
    await start(database, await add_endpoint(database))
    running = await database.read(replays.list_running)
    monkeypatch.setattr(replays, "list_running", lambda _tx: running)
    nodes = [Replayer(database=database, clock=clock) for _ in range(3)]
    with structlog.testing.capture_logs() as lines:
        for node in nodes:
            await node.run_pass()
    assert [line["event"] for line in lines].count("replay.ended") == 1


async def test_a_rate_below_one_is_one_at_a_time(lone: Database, clock: ManualClock) -> None:
    await finish_runs(lone, 2)
    await start(lone, await add_endpoint(lone), rate=0.1)
    replayer = Replayer(database=lone, clock=clock)
    assert await replayer.run_pass() == 10.0
    assert len(await owed(lone)) == 1


async def test_a_daemon_that_was_killed_goes_on_behind_the_last_batch(sqlite_url: str, clock: ManualClock) -> None:
    """The cursor and the batch are one commit: nothing is passed over, nothing made due twice."""
    async with open_database(sqlite_url, clock) as database:
        await finish_runs(database, 10)
        replay = await start(database, await add_endpoint(database), rate=4)
        await Replayer(database=database, clock=clock).run_pass()
    async with open_database(sqlite_url, clock) as database:
        assert (await look(database, replay)).replayed == 4
        replayer = Replayer(database=database, clock=clock)
        while (rest_s := await replayer.run_pass()) != math.inf:
            clock.advance(rest_s)
        made = Counter(delivery.event_id for delivery in await owed(database))
        assert (len(made), set(made.values())) == (10, {1})
        assert (await look(database, replay)).replayed == 10


async def test_a_batch_that_fails_moves_nothing(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await finish_runs(database, 3)
    replay = await start(database, await add_endpoint(database))

    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle of it")

    with monkeypatch.context() as patched:
        patched.setattr(replays, "hold_back", break_down)
        patched.setattr(replays, "insert_deliveries", break_down)
        with pytest.raises(RuntimeError):
            await Replayer(database=database, clock=clock).run_pass()
    assert await look(database, replay) == replay
    assert await Replayer(database=database, clock=clock).run_pass() == math.inf
    assert len(await owed(database)) == 3


async def test_it_waits_while_its_endpoint_has_more_than_enough_to_take(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "AHEAD_MAX", 3)
    await finish_runs(database, 7)
    endpoint = await add_endpoint(database)
    replay = await start(database, endpoint, rate=3)
    replayer = Replayer(database=database, clock=clock)
    assert await replayer.run_pass() == 1.0
    clock.advance(1)
    assert await replayer.run_pass() == FAR_AHEAD_REST_S
    assert (await look(database, replay)).replayed == 3
    await take(database, endpoint)
    assert await replayer.run_pass() == 1.0
    assert (await look(database, replay)).replayed == 6


async def test_a_full_endpoint_holds_up_no_other_replay(
    lone: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "AHEAD_MAX", 2)
    await finish_runs(lone, 4)
    full, free = await add_endpoint(lone), await add_endpoint(lone)
    await start(lone, full, rate=2)
    await Replayer(database=lone, clock=clock).run_pass()
    other = await start(lone, free, rate=100)
    await Replayer(database=lone, clock=clock).run_pass()
    assert (await look(lone, other)).state is ReplayState.DONE


async def test_it_waits_while_its_endpoint_is_disabled_and_ends_with_it(database: Database, clock: ManualClock) -> None:
    await finish_runs(database, 3)
    endpoint = await add_endpoint(database)
    replay = await start(database, endpoint, rate=1)
    replayer = Replayer(database=database, clock=clock)
    await replayer.run_pass()
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    clock.advance(5)
    assert await replayer.run_pass() == SWITCHED_OFF_REST_S
    bells: list[bool] = []
    database.listeners.append(lambda said: bells.append(said.replays_due))
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    assert bells == [True], "it goes on at once"
    await replayer.run_pass()
    assert (await look(database, replay)).replayed == 2
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    await database.write(lambda tx: endpoints.remove_endpoint(tx, endpoint.id))
    clock.advance(5)
    assert await replayer.run_pass() == math.inf
    assert (await look(database, replay)).state is ReplayState.CANCELLED


async def test_an_ordered_endpoint_gets_the_missed_events_of_a_run_in_order_before_the_later_ones(
    database: Database, clock: ManualClock
) -> None:
    """Events missed while it was switched off come first, although a later one was due already."""
    endpoint = await add_endpoint(database, ordered=True)
    run = await register(database)
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    for status in ("running", "waiting", "running"):
        run = await record(database, run, status) or run
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    await record(database, run, "succeeded")
    await start(database, endpoint, status=ReplayStatus.MISSED, rate=2)
    replayer = Replayer(database=database, clock=clock)
    taken = []
    for _ in range(8):
        rest_s = await replayer.run_pass()
        clock.advance(min(rest_s, 1.0))
        taken += [await take(database, endpoint)]
    assert [types for types in taken if types] == [["run.started"], ["run.waiting"], ["run.resumed"], ["run.finished"]]


@pytest.mark.parametrize("end", ["it comes to the event", "it is cancelled"])
async def test_an_ordered_endpoint_gets_a_new_event_behind_those_that_a_replay_has_yet_to_bring(
    database: Database, clock: ManualClock, end: str
) -> None:
    before = await register(database, "r-0")
    await record(database, before, "running")
    run = await record(database, await register(database, "r-1"), "running")
    assert run is not None
    endpoint = await add_endpoint(database, ordered=True)
    replay = await start(database, endpoint, rate=1, status=ReplayStatus.MISSED)
    replayer = Replayer(database=database, clock=clock)
    await replayer.run_pass()
    assert await take(database, endpoint) == ["run.started"]
    await record(database, run, "succeeded")
    assert await take(database, endpoint) == [], "its first event is still to come"
    if end == "it is cancelled":
        await database.write(lambda tx: replays.cancel_replay(tx, replay.id))
        assert await take(database, endpoint) == ["run.finished"]
        return
    clock.advance(1)
    await replayer.run_pass()
    assert await take(database, endpoint) == ["run.started"]
    assert await take(database, endpoint) == ["run.finished"]


async def test_a_replay_of_a_whole_run_keeps_its_order_whatever_became_of_each_event(
    database: Database, clock: ManualClock
) -> None:
    endpoint = await add_endpoint(database, ordered=True, events=only("run.waiting", "run.finished"))
    run = await register(database)
    for status in ("running", "waiting", "succeeded"):
        run = await record(database, run, status) or run
    assert await take(database, endpoint) == ["run.waiting"]
    assert await take(database, endpoint) == ["run.finished"]
    wants_all = await database.write(lambda tx: _change(tx, endpoint))
    await start(database, wants_all)
    await Replayer(database=database, clock=clock).run_pass()
    assert [await take(database, endpoint) for _ in range(4)] == [
        ["run.started"],
        ["run.waiting"],
        ["run.finished"],
        [],
    ]


def _change(tx: Tx, endpoint: Endpoint) -> Endpoint:

    endpoints.update_endpoint(tx, endpoint.model_copy(update={"events": None}))
    found = endpoints.get_endpoint(tx, endpoint.id)
    assert found is not None
    return found


@pytest.mark.slow
async def test_two_nodes_share_a_replay_without_making_anything_due_twice(
    postgresql_url: str, clock: ManualClock
) -> None:
    async with open_database(postgresql_url, clock) as one:
        two = Database(postgresql_url, clock)
        await two.open()
        try:
            await finish_runs(one, 30)
            replay = await start(one, await add_endpoint(one), rate=5)
            nodes = [Replayer(database=database, clock=clock) for database in (one, two)]
            while (await look(one, replay)).state is ReplayState.RUNNING:
                await asyncio.gather(*(node.run_pass() for node in nodes))
                clock.advance(1)
            assert (await look(one, replay)).replayed == 30
            assert len(await owed(one)) == 30
        finally:
            await two.close()


async def test_nothing_to_replay_is_one_read_and_a_rest_until_the_bell_rings(
    lone: Database, clock: ManualClock
) -> None:
    assert await Replayer(database=lone, clock=clock).run_pass() == math.inf
