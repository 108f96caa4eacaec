"""Recording a transition leases its deliveries to this node's deliverer, which sends them without a claim."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.delivery.deliverer import Deliverer
from bridge.domain.clock import SystemClock
from bridge.domain.delivery import DeliveryState
from bridge.domain.endpoint import EndpointSource
from bridge.domain.frozen import replaced
from bridge.domain.leased_delivery import DeliveryOffer, LeasedDelivery
from bridge.domain.run import Run
from bridge.domain.transition import observe
from bridge.sandbox import Receiver, Reply, ReplyKind
from bridge.store import deliveries, endpoints, nodes, runs
from bridge.store.database import Database
from bridge.store.runs import RunChange
from bridge.store.transaction import CommitSignals, Tx, merged
from tests.support.delivering import all_deliveries, none_pending, open_deliverer
from tests.support.waiting import until
from tests.support.watching import NODE, add_endpoint, open_database, record, register, seen
from tests.support.workbench import work


@pytest.fixture
def clock() -> SystemClock:
    """A retry must become due."""
    return SystemClock()


async def record_offered(database: Database, run: Run, status: str, offer: DeliveryOffer) -> Run:
    """Let the bridge see the run in `status`, as a poller that knows the deliverer's offer."""

    def put(tx: Tx) -> Run | None:
        decision = observe(run, seen(status), now=tx.now, wants_progress=False)
        assert decision is not None
        return runs.record_decisions(tx, [RunChange(run, decision)], node=None, keep_lease=False, offer=offer)[0]

    after = await database.write(put)
    assert after is not None
    return after


async def leased_ids(database: Database) -> set[str]:
    return await database.read(lambda tx: deliveries.list_leased(tx, node=NODE))


async def in_step(deliverer: Deliverer) -> None:
    """Let a pass see all that is due."""
    while await deliverer.run_pass() < 0.25:
        pass


async def test_a_new_delivery_goes_out_without_a_pass(database_url: str, receiver: Receiver) -> None:
    async with open_database(database_url) as database:
        await add_endpoint(database, receiver.url())
        async with open_deliverer(database) as deliverer:
            await in_step(deliverer)
            await record_offered(database, await register(database), "succeeded", deliverer.offer)
            assert deliverer.in_flight == 1
            await until(none_pending(database))
    assert [arrived.status for arrived in receiver.received] == [204]


async def test_an_evicted_node_leases_nothing(postgresql_url: str, receiver: Receiver) -> None:
    async with open_database(postgresql_url) as database:
        await add_endpoint(database, receiver.url())
        async with open_deliverer(database) as deliverer:
            await in_step(deliverer)
            await database.write(lambda tx: nodes.evict(tx, [NODE]))
            await record_offered(database, await register(database), "succeeded", deliverer.offer)
            assert (deliverer.in_flight, await leased_ids(database)) == (0, set())


async def test_what_is_newer_does_not_go_before_what_no_pass_has_seen(database: Database, receiver: Receiver) -> None:
    await add_endpoint(database, receiver.url())
    async with open_deliverer(database) as deliverer:
        await in_step(deliverer)
        await record(database, await register(database, "older"), "succeeded")
        await record_offered(database, await register(database, "newer"), "succeeded", deliverer.offer)
        assert (deliverer.in_flight, await leased_ids(database)) == (0, set())
        await work(deliverer.run_pass, deliverer.bell, none_pending(database))


@pytest.mark.parametrize("is_claimed_last", [True, False])
async def test_what_was_claimed_in_the_commit_that_recorded_it_holds_up_nothing_newer(
    database: Database, receiver: Receiver, *, is_claimed_last: bool
) -> None:
    endpoint = await add_endpoint(database, receiver.url())
    async with open_deliverer(database) as deliverer:
        await in_step(deliverer)
        done = [CommitSignals(deliveries_due=True), CommitSignals(has_claimed_due=True)]
        deliverer.follow_commit(merged(done if is_claimed_last else done[::-1]))
        assert (deliverer.offer.room(endpoint) > 0) is is_claimed_last


@pytest.mark.parametrize("more", [{"rate_limit": 5.0}, {"source": EndpointSource.CONFIG}])
async def test_a_limited_endpoint_and_one_without_a_secret_here_are_left_to_the_pass(
    database: Database, receiver: Receiver, more: dict[str, Any]
) -> None:
    await add_endpoint(database, receiver.url(), **more)
    async with open_deliverer(database) as deliverer:
        await in_step(deliverer)
        await record_offered(database, await register(database), "succeeded", deliverer.offer)
        assert (deliverer.in_flight, await leased_ids(database)) == (0, set())


async def test_an_endpoint_that_failed_last_is_left_to_the_pass_until_it_accepts_again(
    database: Database, receiver: Receiver
) -> None:
    receiver.script(Reply(500))
    await add_endpoint(database, receiver.url())
    async with open_deliverer(database) as deliverer:
        await in_step(deliverer)
        run = await record_offered(database, await register(database), "running", deliverer.offer)
        await until(lambda: has_attempts(database, 1))
        await record_offered(database, run, "succeeded", deliverer.offer)
        assert len(await leased_ids(database)) == 0
        await work(deliverer.run_pass, deliverer.bell, none_pending(database))
        await in_step(deliverer)
        await record_offered(database, await register(database, "another"), "succeeded", deliverer.offer)
        assert deliverer.in_flight == 1
        await until(none_pending(database))


async def has_attempts(database: Database, count: int) -> bool:
    return sum(delivery.attempts for delivery in await all_deliveries(database)) >= count


async def test_of_an_ordered_endpoint_the_second_event_of_a_run_waits_for_the_first(
    database: Database, receiver: Receiver
) -> None:
    await add_endpoint(database, receiver.url(), ordered=True)
    async with open_deliverer(database) as deliverer:
        await in_step(deliverer)
        run = await record_offered(database, await register(database), "running", deliverer.offer)
        await record_offered(database, run, "succeeded", deliverer.offer)
        await work(deliverer.run_pass, deliverer.bell, none_pending(database))
    assert [arrived.type for arrived in receiver.received] == ["run.started", "run.finished"]


async def test_what_waits_for_a_slot_goes_to_the_new_url_after_a_change(database: Database, receiver: Receiver) -> None:
    receiver.always(Reply(kind=ReplyKind.HANG), path="/old")
    endpoint = await add_endpoint(database, receiver.url("/old"))
    async with open_deliverer(database, slots_per_endpoint=1, timeout_s=30) as deliverer:
        await in_step(deliverer)
        offer = replaced(deliverer.offer, room=lambda _endpoint: 5)
        for name in ("first", "second"):
            await record_offered(database, await register(database, name), "succeeded", offer)
        await receiver.wait_for(bool, 60)
        assert deliverer.in_flight == 2
        moved = endpoint.model_copy(update={"url": receiver.url("/new")})
        await database.write(lambda tx: endpoints.update_endpoint(tx, moved))
        assert deliverer.in_flight == 1
        deliverer.cancel_posts()
        found = await work(deliverer.run_pass, deliverer.bell, none_pending(database))
    assert {delivery.state for delivery in found} == {DeliveryState.DELIVERED}
    assert [arrived.path for arrived in receiver.received] == ["/old", "/new", "/new"]


async def test_a_delivery_leased_again_before_its_flight_has_ended_leaves_its_slot_free(
    database: Database, receiver: Receiver
) -> None:
    """A replay may be committed between the record of an attempt and the end of its flight."""
    leased: list[LeasedDelivery] = []
    database.listeners.append(lambda signals: leased.extend(signals.leased_deliveries))
    receiver.script(Reply(500), Reply(500))
    await add_endpoint(database, receiver.url())
    async with open_deliverer(database, slots_per_endpoint=1) as deliverer:
        await in_step(deliverer)
        await record_offered(database, await register(database), "succeeded", deliverer.offer)
        deliverer.follow_commit(CommitSignals(leased_deliveries=leased[:]))  # the same, leased again
        await until(lambda: len(receiver.received) == 2)
        await work(deliverer.run_pass, deliverer.bell, none_pending(database))
    assert [arrived.status for arrived in receiver.received][:2] == [500, 500]
