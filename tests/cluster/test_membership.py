"""A node among others: its lease, its rank, and what it does when it is cut off or evicted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from bridge.cluster.lease_guard import OPEN_SHARE, LeaseGuard
from bridge.cluster.membership import Membership, NodeRank
from bridge.cluster.process_identity import own_identity
from bridge.domain.clock import Clock, SystemClock
from bridge.domain.delivery import DeliveryState
from bridge.domain.errors import StoreUnavailable
from bridge.domain.limits.adaptive import RateLimit
from bridge.domain.run import RunStatus
from bridge.polling.duration_learner import DurationLearner, LearnedState
from bridge.sandbox import Receiver, Reply, ReplyKind, Sandbox, Scenario
from bridge.store import learned_state, nodes, run_leases, runs
from bridge.store.database import Database
from tests.support.cuttable_proxy import CuttableProxy
from tests.support.delivering import none_pending, open_deliverer
from tests.support.manual_clock import ManualClock
from tests.support.postgres import Postgres
from tests.support.watching import NODE, add_endpoint, open_database, record, register
from tests.support.workbench import connection, open_poller, settled, work

LONG_S, SHORT_S = 600.0, 2.0  # a lease that outlasts any test, and one that ends within it


@dataclass
class Member:
    """A node without any work."""

    database: Database
    clock: Clock
    id: str
    lease_s: float = LONG_S
    lease_guard: LeaseGuard = field(init=False)
    membership: Membership = field(init=False)
    cancellations: int = 0

    def __post_init__(self) -> None:
        self.lease_guard = LeaseGuard(self.clock)
        self.membership = Membership(
            database=self.database,
            clock=self.clock,
            lease_s=self.lease_s,
            lease_guard=self.lease_guard,
            cancel_posts=self._cancel_posts,
        )

    async def join(self) -> None:
        began = self.clock.monotonic()
        host = {"host": "here", "pid": 1, "version": "0"}
        await self.database.write(lambda tx: nodes.join(tx, node=self.id, lease_s=self.lease_s, **host))  # type: ignore[arg-type]
        self.membership.joined(self.id, began)

    def _cancel_posts(self) -> None:
        self.cancellations += 1

    async def evict(self, other: str) -> None:
        """Renew, and evict the dead, until `other` is gone."""
        async with asyncio.timeout(60):
            while other in [node.id for node in await self.database.read(nodes.list_nodes)]:
                await self.membership.run_pass()
                await self.membership.evict_dead()
                await asyncio.sleep(0.02)


@asynccontextmanager
async def member(url: str, node: str, *, lease_s: float = LONG_S) -> AsyncIterator[Member]:
    database = Database(url, SystemClock())
    await database.open()
    one = Member(database, SystemClock(), node, lease_s)
    try:
        await one.join()
        yield one
    finally:
        one.membership.close()
        await database.close()


# -- the lease guard


def test_a_lease_guard_is_open_for_four_fifths_of_the_lease_from_when_the_renewal_began() -> None:
    clock = ManualClock(datetime(2026, 1, 15, tzinfo=UTC))
    lease_guard, began = LeaseGuard(clock), clock.monotonic()
    assert lease_guard.is_open
    clock.advance(3)
    lease_guard.extend(began, 20.0)
    clock.advance(20 * OPEN_SHARE - 3.001)
    assert lease_guard.is_open
    clock.advance(0.002)
    assert not lease_guard.is_open


async def test_with_a_closed_lease_guard_nothing_is_polled(database_url: str) -> None:
    async with open_database(database_url) as database, Sandbox() as sandbox:
        settings = connection(sandbox, "dify")
        async with open_poller(database, settings) as poller:
            run_id = sandbox.add_run("dify", scenario=Scenario(duration_s=0))
            run = await register(database, run_id, connection=settings.name)
            poller.lease_guard.closes_at = 0.0
            for _ in range(20):
                assert await poller.run_pass() > 0, "it rests instead of spinning"
            assert list(sandbox.requests) == []
            poller.lease_guard.closes_at = float("inf")
            await work(poller.run_pass, poller.bell, lambda: settled(database, run.id))


async def test_with_a_closed_lease_guard_nothing_is_posted_not_even_what_was_claimed_before(
    postgresql_url: str,
) -> None:
    async with open_database(postgresql_url) as database, Receiver() as receiver:
        await add_endpoint(database, receiver.url())
        lease_guard = LeaseGuard(SystemClock())
        async with open_deliverer(database, lease_guard=lease_guard) as deliverer:
            await record(database, await register(database), "succeeded")
            lease_guard.closes_at = 0.0
            assert await deliverer.run_pass() > 0
            lease_guard.closes_at = float("inf")
            await deliverer.run_pass()
            assert deliverer.in_flight == 1, "claimed, and about to be posted"
            lease_guard.closes_at = 0.0
            while deliverer.in_flight:
                await asyncio.sleep(0)
            assert receiver.received == []
            lease_guard.closes_at = float("inf")
            await work(deliverer.run_pass, deliverer.bell, none_pending(database))
            assert len(receiver.received) == 1


async def test_a_cancelled_post_is_no_failed_attempt_and_is_made_again(postgresql_url: str) -> None:
    async with open_database(postgresql_url) as database, Receiver() as receiver:
        await add_endpoint(database, receiver.url())
        receiver.script(Reply(kind=ReplyKind.HANG))
        async with open_deliverer(database, timeout_s=60) as deliverer:
            await record(database, await register(database), "succeeded")
            await deliverer.run_pass()
            await receiver.wait_for(lambda got: len(got) == 1)
            deliverer.cancel_posts()
            (delivery,) = await work(deliverer.run_pass, deliverer.bell, none_pending(database))
            assert (delivery.state, delivery.attempts, delivery.failures) == (DeliveryState.DELIVERED, 1, 0)
            assert [one.status for one in receiver.received] == [None, 204]


# -- the lease


async def test_the_second_node_asks_nothing_until_the_first_has_noticed_it(postgresql_url: str) -> None:
    """Until then the first one uses all of the limits."""
    async with member(postgresql_url, "node_1") as first:
        await first.membership.run_pass()
        assert first.membership.rank == NodeRank(0, 1, is_noticed=True)
        async with member(postgresql_url, "node_2") as second:
            await second.membership.run_pass()
            await second.membership.run_pass()
            assert second.membership.rank == NodeRank(1, 2, is_noticed=False)
            first.membership.expect_change()
            await first.membership.run_pass()
            await second.membership.run_pass()
            assert first.membership.rank == NodeRank(0, 2, is_noticed=True)
            assert second.membership.rank == NodeRank(1, 2, is_noticed=True)
            assert (first.membership.does_chores, second.membership.does_chores) == (True, False)
            assert second.database.has_other_nodes


async def test_an_evicted_node_does_nothing_until_it_joins_under_a_new_id(postgresql_url: str) -> None:
    async with (
        member(postgresql_url, "node_1", lease_s=SHORT_S) as sleeper,
        member(postgresql_url, "node_2", lease_s=SHORT_S) as steady,
    ):
        await sleeper.membership.run_pass()
        await steady.evict("node_1")
        sleeper.membership.expect_change()
        assert await sleeper.membership.run_pass() == 0
        assert sleeper.membership.is_lost
        assert not sleeper.lease_guard.is_open
        assert not sleeper.membership.does_chores
        assert sleeper.cancellations >= 1
        sleeper.id = "node_1_again"
        await sleeper.join()
        assert (sleeper.membership.is_lost, sleeper.lease_guard.is_open) == (False, True)
        await sleeper.membership.run_pass()
        assert sleeper.membership.rank.number == 1
        listed = [node.id for node in await sleeper.database.read(nodes.list_nodes)]
        assert listed == ["node_2", "node_1_again"]


@pytest.mark.slow
async def test_a_node_that_is_cut_off_breaks_off_before_its_lease_ends_and_goes_on_if_nobody_took_over(
    postgres: Postgres, postgresql_url: str
) -> None:
    async with CuttableProxy(postgres.port) as cable:
        url = postgresql_url.replace(f":{postgres.port}/", f":{cable.port}/")
        async with member(url, "node_1", lease_s=SHORT_S) as lonely:
            await lonely.membership.run_pass()
            cable.cut()
            lonely.membership.expect_change()
            async with asyncio.timeout(60):
                while not lonely.cancellations:
                    with pytest.raises(StoreUnavailable):
                        await lonely.membership.run_pass()
            assert not lonely.lease_guard.is_open
            cable.mend()
            async with asyncio.timeout(60):
                while not lonely.lease_guard.is_open:
                    try:
                        await lonely.membership.run_pass()
                    except StoreUnavailable:
                        await asyncio.sleep(0.02)
            assert not lonely.membership.is_lost


async def test_after_an_outage_the_others_may_renew_before_they_are_evicted(postgresql_url: str) -> None:
    """The database was away for longer than a lease; the first node to return must not evict all others."""
    async with member(postgresql_url, "node_1") as first, member(postgresql_url, "node_2") as second:
        await first.database.write(lambda tx: nodes.renew(tx, "node_2", lease_s=-1))
        await first.membership.evict_dead()
        assert len(await first.database.read(nodes.list_nodes)) == 2
        await second.membership.run_pass()
        assert [node.is_alive for node in await first.database.read(nodes.list_nodes)] == [True, True]


# -- the runs that it holds


async def test_a_lease_whose_commit_got_no_answer_is_found_again(postgresql_url: str) -> None:
    async with open_database(postgresql_url) as database, Sandbox() as sandbox:
        settings = connection(sandbox, "dify")
        run = await register(
            database, sandbox.add_run("dify", scenario=Scenario(duration_s=0)), connection=settings.name
        )
        await database.write(
            lambda tx: run_leases.acquire_due(tx, node=NODE, connection=settings.name, until=tx.now, limit=1)
        )
        async with open_poller(database, settings) as poller:
            assert await work(poller.run_pass, poller.bell, lambda: settled(database, run.id))


async def test_a_run_that_was_deleted_at_another_node_is_dropped(postgresql_url: str) -> None:
    """Also if the notification of it was lost: a node compares what it holds with the database now and then."""
    async with open_database(postgresql_url) as database, Sandbox() as sandbox:
        settings = connection(sandbox, "dify")
        run = await register(
            database, sandbox.add_run("dify", scenario=Scenario(duration_s=None)), connection=settings.name
        )
        async with open_poller(database, settings) as poller:

            async def in_hand() -> bool:
                return poller.leases.find(run.id) is not None

            await work(poller.run_pass, poller.bell, in_hand)
            await database.write(lambda tx: runs.delete_run(tx, run.id))
            poller.leases.doubt()
            await poller.run_pass()
            assert not await in_hand()


@pytest.mark.slow
async def test_a_node_without_a_share_of_the_limits_leaves_the_runs_to_others(postgresql_url: str) -> None:
    async with open_database(postgresql_url) as database, Sandbox() as sandbox:
        settings = connection(sandbox, "dify")
        await register(database, sandbox.add_run("dify", scenario=Scenario(duration_s=None)), connection=settings.name)
        async with open_poller(database, settings) as poller:

            async def hand() -> int:
                return len(poller.schedule)

            await work(poller.run_pass, poller.bell, hand)
            poller.client.limiter.shut()
            poller.leases.rebalance()

            async def is_free() -> bool:
                return not await database.read(
                    lambda tx: run_leases.list_leased(tx, node=NODE, connection=settings.name)
                )

            await work(poller.run_pass, poller.bell, is_free)
            assert not await hand()
            poller.client.limiter.divide(0, 1)
            poller.leases.expect()
            await work(poller.run_pass, poller.bell, hand)


# -- what was learned


async def test_nodes_learn_from_each_other(postgresql_url: str) -> None:
    """The durations that both have seen count, in whatever order they save."""
    async with open_database(postgresql_url) as database:
        learners = [DurationLearner(), DurationLearner()]
        states = [LearnedState(learner, RateLimit(), database, "hub") for learner in learners]
        for number in range(6):
            for learner in learners:
                learner.learn("wf", RunStatus.RUNNING, 10.0 + number, 11.0 + number, now=1000.0 * number)
            for each in states:
                await each.save()
        await states[0].save()
        both = DurationLearner()
        for number in range(12):
            both.learn("wf", RunStatus.RUNNING, 10.0, 11.0, now=1000.0 * number)
        expected = both.durations("wf", RunStatus.RUNNING).runs
        for learner in learners:
            assert learner.durations("wf", RunStatus.RUNNING).runs == pytest.approx(expected)
            assert learner.prior(RunStatus.RUNNING).runs == pytest.approx(expected)
        (saved,) = [
            row for row in await database.read(lambda tx: learned_state.list_learned(tx, "hub")) if row.workflow
        ]
        assert saved.state == learners[0].durations("wf", RunStatus.RUNNING).dump()


async def test_a_node_whose_process_has_ended_is_evicted_though_its_lease_is_good(postgresql_url: str) -> None:
    """A daemon that was killed and is back need not wait for the lease of the one before."""
    view, pid, started = own_identity().split()
    ended = f"{view} {pid} {int(started) - 1}"
    async with member(postgresql_url, "node_1") as one:
        for node, process in (("node_2", ended), ("node_3", own_identity()), ("node_4", "elsewhere 1 1")):
            await one.database.write(
                lambda tx, node=node, process=process: nodes.join(
                    tx, node=node, host="h", pid=1, version="0", process=process
                )
            )
        await one.evict("node_2")
        assert {node.id for node in await one.database.read(nodes.list_nodes)} == {"node_1", "node_3", "node_4"}
