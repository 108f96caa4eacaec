"""Leases, claims and what several nodes may do to one database at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import StoreUnavailable
from bridge.domain.event import Event
from bridge.store import (
    attempts,
    connections,
    deliveries,
    endpoint_health,
    endpoints,
    events,
    nodes,
    replays,
    run_leases,
    runs,
)
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import LeasedDelivery, may_probe
from bridge.store.transaction import Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import add_endpoint, new_run, open_database, record, register

ONE, TWO = "node_1", "node_2"  # `open_database` signs the first one on


async def join(database: Database, node: str, *, lease_s: float = nodes.LEASE_S) -> None:
    await database.write(lambda tx: nodes.join(tx, node=node, host="there", pid=2, version="0", lease_s=lease_s))


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    async with open_database(postgresql_url) as opened:
        await join(opened, TWO)
        yield opened


async def expire(database: Database, node: str) -> None:
    assert await database.write(lambda tx: nodes.renew(tx, node, lease_s=-0.001))


async def claim_runs(database: Database, node: str, *, limit: int = 10, sharers: int = 1) -> list[str]:
    taken = await database.write(
        lambda tx: run_leases.acquire_due(
            tx, node=node, connection="dify-prod", until=tx.now, limit=limit, sharers=sharers
        )
    )
    return [run.id for run in taken]


async def claim_delivery(database: Database, endpoint: Endpoint, node: str) -> LeasedDelivery:
    (claimed,) = await database.write(
        lambda tx: deliveries.acquire_due(tx, node=node, endpoint_id=endpoint.id, limit=10)
    )
    return claimed


async def record_attempt(database: Database, claimed: LeasedDelivery, node: str) -> bool:
    answer = PostResult(Outcome.DELIVERED, 12, 200)
    result = AttemptResult(claimed.delivery, START, answer, DeliveryState.DELIVERED, None)
    return (await database.write(lambda tx: attempts.record_attempts(tx, node=node, results=[result])))[0]


async def count_attempts(database: Database, claimed: LeasedDelivery) -> int:
    found = await database.read(lambda tx: attempts.list_attempts(tx, [claimed.delivery.id]))
    return len(found.get(claimed.delivery.id, []))


# -- leases


async def test_a_lease_is_judged_by_the_clock_of_the_database(database: Database, another) -> None:
    """A node whose own clock is an hour off neither evicts the others nor is evicted."""
    for wrong_at in (START, datetime(2036, 1, 1, tzinfo=UTC)):
        confused = await another(ManualClock(wrong_at))
        await join(confused, f"node_{wrong_at.year}")
        assert await confused.write(nodes.evict_dead) == []
        assert await database.write(nodes.evict_dead) == []
    listed = await database.read(nodes.list_nodes)
    assert [node.id for node in listed] == [ONE, TWO, "node_2026", "node_2036"]
    assert all(node.is_alive for node in listed)


async def test_a_dead_node_is_buried_once_and_its_claims_are_free(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await record(database, await register(database, "1"), "succeeded")
    run = await register(database, "2")
    assert await claim_runs(database, ONE) == [run.id]
    await claim_delivery(database, endpoint, ONE)
    held = {node.id: (node.runs, node.deliveries) for node in await database.read(nodes.list_nodes)}
    assert held == {ONE: (1, 1), TWO: (0, 0)}
    await expire(database, ONE)
    evicted = await asyncio.gather(*(database.write(nodes.evict_dead) for _ in range(4)))
    assert sorted(evicted) == [[], [], [], [ONE]]
    assert not await database.write(lambda tx: nodes.renew(tx, ONE))
    assert await claim_runs(database, TWO) == [run.id]
    await claim_delivery(database, endpoint, TWO)


async def test_a_node_that_is_just_renewing_its_lease_is_not_buried(database: Database, postgresql_url: str) -> None:
    """Otherwise it would go on as if it were alive while its work is done elsewhere."""
    await expire(database, ONE)
    connection = await asyncpg.connect(postgresql_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "UPDATE nodes SET lease_expires_at = lease_expires_at + 60000000 WHERE id = $1", ONE
            )
            assert await database.write(nodes.evict_dead) == []
        assert await database.write(nodes.evict_dead) == []
    finally:
        await connection.close()


async def test_a_buried_node_can_claim_nothing(database: Database) -> None:
    """Nobody would ever free what it took."""
    endpoint = await add_endpoint(database)
    await record(database, await register(database, "1"), "succeeded")
    await register(database, "2")
    await expire(database, ONE)
    await database.write(nodes.evict_dead)
    with pytest.raises(StoreUnavailable):
        await claim_runs(database, ONE)
    with pytest.raises(StoreUnavailable):
        await claim_delivery(database, endpoint, ONE)
    offers = {"dify-prod": runs.LeaseOffer(ONE, 9)}
    await database.write(lambda tx: runs.insert_runs(tx, [new_run("3")], offers))  # registered all the same
    assert len(await claim_runs(database, TWO)) == 2


# -- claims


async def test_each_of_several_nodes_takes_a_fair_part(either: Database) -> None:
    for number in range(8):
        await register(either, str(number))
    taken = [len(await claim_runs(either, ONE, sharers=2)) for _ in range(4)]
    assert taken == [4, 2, 1, 1]


async def test_an_attempt_without_the_claim_leaves_no_trace(either: Database) -> None:
    """The claim was lost while the process slept: the node that has it now makes its own attempt."""
    endpoint = await add_endpoint(either)
    await record(either, await register(either), "succeeded")
    stale = await claim_delivery(either, endpoint, ONE)
    await either.write(lambda tx: deliveries.release(tx, node=ONE, delivery_ids=[stale.delivery.id]))
    assert not await record_attempt(either, stale, ONE)
    fresh = await claim_delivery(either, endpoint, ONE)
    assert not await record_attempt(either, fresh, "node_elsewhere")
    assert await count_attempts(either, fresh) == 0
    assert await record_attempt(either, fresh, ONE)
    assert await count_attempts(either, fresh) == 1


async def test_an_attempt_whose_commit_was_not_seen_is_not_recorded_twice(either: Database) -> None:
    endpoint = await add_endpoint(either)
    await record(either, await register(either), "succeeded")
    claimed = await claim_delivery(either, endpoint, ONE)
    assert await record_attempt(either, claimed, ONE)
    await either.write(lambda tx: deliveries.retry_now(tx, [claimed.delivery.id]))
    await claim_delivery(either, endpoint, ONE)
    assert not await record_attempt(either, claimed, ONE)
    assert await count_attempts(either, claimed) == 1


async def test_an_attempt_at_what_was_discarded_meanwhile_is_kept_and_frees_the_claim(either: Database) -> None:
    endpoint = await add_endpoint(either)
    await record(either, await register(either), "succeeded")
    claimed = await claim_delivery(either, endpoint, ONE)
    await either.write(lambda tx: endpoints.remove_endpoint(tx, endpoint.id))
    assert await record_attempt(either, claimed, ONE)
    assert await either.read(lambda tx: deliveries.list_leased(tx, node=ONE)) == set()
    found = await either.read(lambda tx: deliveries.get_delivery(tx, claimed.delivery.id))
    assert found is not None
    assert found.state is DeliveryState.DISCARDED


async def test_claims_can_be_listed_and_let_go(either: Database) -> None:
    first, second = (await register(either, "1")).id, (await register(either, "2")).id
    await claim_runs(either, ONE)
    assert await either.read(lambda tx: run_leases.list_leased(tx, node=ONE, connection="dify-prod")) == {first, second}
    await either.write(lambda tx: run_leases.release(tx, node="node_elsewhere", run_ids=[first]))
    await either.write(lambda tx: run_leases.release(tx, node=ONE, run_ids=[second]))
    assert await either.read(lambda tx: run_leases.list_leased(tx, node=ONE, connection="dify-prod")) == {first}


async def test_the_next_of_an_ordered_endpoint_is_released_whoever_is_faster(database: Database) -> None:
    """One node records the event that comes next while another records that the one before was delivered."""
    endpoint = await add_endpoint(database, ordered=True)
    for number in range(25):
        run = await record(database, await register(database, str(number)), "running")
        assert run is not None
        claimed = await claim_delivery(database, endpoint, ONE)
        await asyncio.gather(record_attempt(database, claimed, ONE), record(database, run, "succeeded"))
        assert await record_attempt(database, await claim_delivery(database, endpoint, TWO), TWO)


async def two_delivered(database: Database, number: int) -> tuple[Endpoint, LeasedDelivery, LeasedDelivery]:
    """An ordered endpoint that got both events of a run, the first of which is being sent to it again."""
    endpoint = await add_endpoint(database, ordered=True)
    run = await record(database, await register(database, str(number)), "running")
    assert run is not None
    await record(database, run, "succeeded")
    first = await claim_delivery(database, endpoint, ONE)
    await record_attempt(database, first, ONE)
    second = await claim_delivery(database, endpoint, ONE)
    await record_attempt(database, second, ONE)
    await database.write(lambda tx: deliveries.retry_now(tx, [first.delivery.id]))
    return endpoint, await claim_delivery(database, endpoint, ONE), second


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one", "selection"])
async def test_what_is_sent_again_is_released_whoever_is_faster(database: Database, way: str) -> None:
    """A person has the second event sent again while a node records that the first was delivered again."""
    for number in range(25):
        endpoint, first, second = await two_delivered(database, number)

        def again(tx: Tx, endpoint: Endpoint = endpoint, sent: LeasedDelivery = second) -> None:
            if way == "one":
                deliveries.retry_now(tx, [sent.delivery.id])
                return
            event = events.get_event(tx, sent.delivery.event_id)
            assert event is not None
            replays.resend(tx, endpoint, [event], {event.id: sent.delivery.id})

        await asyncio.gather(database.write(again), record_attempt(database, first, ONE))
        assert (await claim_delivery(database, endpoint, TWO)).delivery.id == second.delivery.id


async def test_a_missed_event_that_is_sent_again_twice_at_the_same_moment_gets_one_delivery(database: Database) -> None:
    for number in range(10):
        run = await register(database, str(number))
        await record(database, run, "succeeded")
        endpoint = await add_endpoint(database)
        (event,) = await database.read(lambda tx, run=run: events.list_run_events(tx, run.id))

        def again(tx: Tx, event: Event = event, endpoint: Endpoint = endpoint) -> list[str]:
            had = replays.deliveries_by_endpoint(tx, event.id)
            known = {event.id: had[endpoint.id]} if endpoint.id in had else {}
            return replays.resend(tx, endpoint, [event], known)

        made = await asyncio.gather(*(database.write(again) for _ in range(4)))
        assert len({delivery_id for each in made for delivery_id in each}) == 1
        await database.write(lambda tx, of=endpoint: endpoints.remove_endpoint(tx, of.id))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["it is switched on", "it asks for order"])
async def test_a_changed_endpoint_gets_the_next_event_whoever_is_faster(database: Database, change: str) -> None:
    """A person changes the endpoint while a node records that the first event of a run was delivered."""
    for number in range(25):
        endpoint = await add_endpoint(database, ordered=change == "it is switched on")
        run = await record(database, await register(database, str(number)), "running")
        assert run is not None
        first = await claim_delivery(database, endpoint, ONE)
        await record(database, run, "succeeded")
        if endpoint.ordered:
            await database.write(lambda tx, of=endpoint: endpoints.disable_endpoint(tx, of.id, "a test"))

        def alter(tx: Tx, endpoint: Endpoint = endpoint) -> None:
            if endpoint.ordered:
                endpoints.enable_endpoint(tx, endpoint.id)
            else:
                endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": True}))

        await asyncio.gather(database.write(alter), record_attempt(database, first, ONE))
        assert (await claim_delivery(database, endpoint, TWO)).delivery.event_type == "run.finished"
        await database.write(lambda tx, of=endpoint: endpoints.remove_endpoint(tx, of.id))


async def test_an_endpoint_in_trouble_is_probed_by_one_node_at_a_time(database: Database) -> None:
    endpoint = await add_endpoint(database)
    for number in range(2):
        await record(database, await register(database, str(number)), "succeeded")

    def probe(tx: Tx, node: str) -> list[LeasedDelivery]:
        if not may_probe(tx, endpoint.id):
            return []
        return deliveries.acquire_due(tx, node=node, endpoint_id=endpoint.id, limit=1)

    claims = await asyncio.gather(*(database.write(lambda tx, of=node: probe(tx, of)) for node in (ONE, TWO) * 3))
    (claimed,) = [each for claim in claims for each in claim]
    (holder,) = [node for node, claim in zip((ONE, TWO) * 3, claims, strict=True) if claim]
    assert not await database.write(lambda tx: may_probe(tx, endpoint.id))
    refused = PostResult(Outcome.THROTTLED, 12, 429, retry_after_s=60)
    await database.write(lambda tx: endpoint_health.apply_result(tx, endpoint.id, refused))
    await record_attempt(database, claimed, holder)
    assert not await database.write(lambda tx: may_probe(tx, endpoint.id)), "it asked for a pause"
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    assert await database.write(lambda tx: may_probe(tx, endpoint.id))


# -- what two nodes do at the same moment


async def test_two_nodes_that_see_the_same_failure_report_it_once(either: Database) -> None:
    def turn(health: ConnectionHealth) -> Callable[[Tx], bool]:
        return lambda tx: connections.change_health(tx, "hub", provider="dify", health=health, reason="401")

    async def all_turn(health: ConnectionHealth) -> int:
        return sum(await asyncio.gather(*(either.write(turn(health)) for _ in range(4))))

    assert await all_turn(ConnectionHealth.OK) == 0
    assert await all_turn(ConnectionHealth.FAILING) == 1
    assert await all_turn(ConnectionHealth.OK) == 1
    assert await all_turn(ConnectionHealth.FAILING) == 1


def file_endpoint(endpoint_id: str) -> Endpoint:
    return Endpoint(id=endpoint_id, url=f"http://127.0.0.1:9/{endpoint_id}", source=EndpointSource.CONFIG)


async def sync(database: Database, node: str, *ids: str) -> None:
    wanted = [file_endpoint(endpoint_id) for endpoint_id in ids]
    await database.write(lambda tx: endpoints.sync_file_endpoints(tx, wanted, node=node))


async def present(database: Database) -> list[str]:
    return [endpoint.id for endpoint in await database.read(lambda tx: endpoints.list_endpoints(tx, limit=10))]


async def test_nodes_with_the_same_file_may_start_at_the_same_moment(database: Database, another) -> None:
    others = [await another() for _ in range(3)]
    await asyncio.gather(*(sync(each, ONE, "app", "audit") for each in (database, *others)))
    assert await present(database) == ["app", "audit"]


async def test_an_endpoint_that_the_file_of_another_live_node_names_stays(database: Database) -> None:
    """Otherwise nodes that get a new file one after the other would discard deliveries of each other's endpoints."""
    await sync(database, ONE, "app", "old")
    await sync(database, TWO, "app", "new")
    assert await present(database) == ["app", "new", "old"]
    await sync(database, ONE, "app", "new")
    assert await present(database) == ["app", "new"]


async def test_the_file_of_a_dead_node_counts_no_longer(database: Database) -> None:
    await sync(database, ONE, "app", "old")
    await expire(database, ONE)
    await sync(database, TWO, "app")
    assert await present(database) == ["app"]


async def test_on_sqlite_a_lease_needs_no_keeping(sqlite_url: str) -> None:
    clock = ManualClock(START)
    async with open_database(sqlite_url, clock) as database:
        clock.advance(timedelta(days=1).total_seconds())
        (node,) = await database.read(nodes.list_nodes)
        assert replace(node, started_at=START, lease_expires_at=START) == nodes.Node(
            ONE, "here", 1, "0", "", START, START, is_alive=True
        )
