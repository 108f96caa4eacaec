"""Hot transactions on PostgreSQL are one statement, and an ordinary transaction where something is unusual."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from bridge.domain.clock import SystemClock
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.ids import new_id
from bridge.domain.leased_delivery import DeliveryOffer, LeasedDelivery
from bridge.domain.run import Run, RunStatus
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.transition import observe
from bridge.store import attempts, deliveries, endpoint_health, endpoints, events, runs
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.endpoint_health import HealthChange
from bridge.store.runs import LeaseOffer, NewRun, RunChange
from bridge.store.transaction import Tx
from tests.support.waiting import until
from tests.support.watching import NODE, add_endpoint, new_run, open_database, seen

FIRST, SECOND = new_secret(), new_secret()


@pytest.fixture
async def database(postgresql_url: str) -> AsyncIterator[Database]:
    async with open_database(postgresql_url) as opened:
        yield opened


class Sent:
    """Which of the works were sent as one statement."""

    def __init__(self) -> None:
        self.alone: list[bool] = []

    def note(self, tx: Tx) -> None:
        """Note how this transaction is run; the last note of a piece of work counts."""
        self.alone.append(tx.statement is not None)


async def register(database: Database, sent: Sent, *new: NewRun, offer: LeaseOffer | None = None) -> list[Run]:
    def work(tx: Tx) -> list[Run]:
        sent.note(tx)
        known = runs.find_watched(tx, new[0].connection, [each.provider_run_id for each in new])
        offers = {new[0].connection: offer} if offer else {}
        return [*known.values(), *runs.insert_runs(tx, [n for n in new if n.provider_run_id not in known], offers)]

    return await database.write_plain(work)


async def finish(
    database: Database, sent: Sent, *watched: Run, node: str | None = NODE, offer: DeliveryOffer | None = None
) -> list[Run | None]:
    def work(tx: Tx) -> list[Run | None]:
        sent.note(tx)
        decided = [(run, observe(run, seen("succeeded"), now=tx.now, wants_progress=False)) for run in watched]
        changes = [RunChange(run, decision) for run, decision in decided if decision is not None]
        return runs.record_decisions(tx, changes, node=node, keep_lease=True, offer=offer)

    return await database.write_plain(work)


async def record(
    database: Database, sent: Sent, *claimed: LeasedDelivery, node: str = NODE, outcome: Outcome = Outcome.DELIVERED
) -> tuple[list[HealthChange | None], list[bool]]:
    def work(tx: Tx) -> tuple[list[HealthChange | None], list[bool]]:
        sent.note(tx)
        answer = PostResult(outcome, 5, 204 if outcome is Outcome.DELIVERED else 500)
        state = DeliveryState.DELIVERED if outcome is Outcome.DELIVERED else DeliveryState.PENDING
        again = None if outcome is Outcome.DELIVERED else tx.now + timedelta(seconds=5)
        results = [AttemptResult(each.delivery, tx.now, answer, state, again) for each in claimed]
        attempts.lock_ordering(tx, results)
        health = endpoint_health.apply_results(tx, [(each.endpoint.id, answer) for each in claimed])
        return health, attempts.record_attempts(tx, node=node, results=results)

    return await database.write_plain(work)


async def claim(database: Database, endpoint_id: str) -> list[LeasedDelivery]:
    return await database.write(lambda tx: deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint_id, limit=100))


async def test_a_run_is_registered_recorded_and_delivered_in_a_statement_each(database: Database) -> None:
    sent = Sent()
    endpoint = await add_endpoint(database)
    offer = LeaseOffer(NODE, 100)
    first = await register(database, sent, new_run("a"), offer=offer)
    assert all(await finish(database, sent, *first)), "the endpoints are not known yet"
    both = await register(database, sent, new_run("b", tags=("x", "y")), new_run("c"), offer=offer)
    recorded = await finish(database, sent, *both)
    claimed = await claim(database, endpoint.id)
    health, done = await record(database, sent, *claimed)
    assert sent.alone == [True, True, False, True, True, True]
    assert [run and run.status for run in recorded] == [RunStatus.SUCCEEDED] * 2
    assert (len(claimed), done) == (3, [True] * 3)
    assert all(change and change.before == change.after for change in health)
    stored = await database.read(lambda tx: runs.get_runs(tx, [run.id for run in both]))
    assert list(stored.values()) == recorded
    feed = await database.read(lambda tx: events.list_feed(tx, after=0, limit=10))
    assert [event.run_id for event in feed] == [run.id for run in (*first, *both)]
    settled = await database.read(lambda tx: deliveries.get_delivery(tx, claimed[-1].delivery.id))
    assert settled is not None
    assert (settled.state, settled.attempts) == (DeliveryState.DELIVERED, 1)
    assert not await database.read(lambda tx: deliveries.list_leased(tx, node=NODE))
    listed = await database.read(lambda tx: attempts.list_attempts(tx, [each.delivery.id for each in claimed]))
    assert [len(of_one) for of_one in listed.values()] == [1, 1, 1]


async def test_values_that_differ_from_row_to_row_are_stored_each_in_its_row(database: Database) -> None:
    """A value that all rows share is sent once, others as arrays; a column that was an array stays one."""
    offer, soon = LeaseOffer(NODE, 100), database.clock.now() + timedelta(hours=1)
    groups = [
        [new_run("a", workflow_id="w"), new_run("b", workflow_id="w")],
        [new_run("c", metadata={"x": 1}, deadline_at=soon), new_run("d", provider_ref="r")],
        [new_run("e", metadata={"x": 2}, deadline_at=soon), new_run("f", metadata={"x": 2}, deadline_at=soon)],
        [new_run("g", metadata={"y": "ä"}, workflow_id="v")],
    ]
    sent = Sent()
    made = [run for group in groups for run in await register(database, sent, *group, offer=offer)]
    assert sent.alone == [True] * len(groups)
    stored = await database.read(lambda tx: runs.get_runs(tx, [run.id for run in made]))
    assert [stored[run.id] for run in made] == made
    wanted = [new for group in groups for new in group]
    assert [(r.workflow_id, r.metadata, r.provider_ref, r.deadline_at) for r in made] == [
        (new.workflow_id, new.metadata, new.provider_ref, new.deadline_at) for new in wanted
    ]


async def test_a_run_is_registered_with_its_own_webhook_in_one_statement(database: Database) -> None:
    sent = Sent()
    new = new_run("a")
    own = Endpoint(
        id=new_id("ep"), url="https://app.example.org/one", source=EndpointSource.RUN, run_id=new.id, headers={"a": "b"}
    )

    def work(tx: Tx) -> None:
        sent.note(tx)
        runs.find_watched(tx, new.connection, [new.provider_run_id])
        runs.insert_runs(tx, [new])
        endpoints.insert_run_endpoints(tx, [(own, Secret(FIRST))])

    await database.write_plain(work)
    assert sent.alone == [True]
    [stored] = await database.read(lambda tx: endpoints.list_run_endpoints(tx, [new.id]))
    assert (stored.id, stored.url, stored.headers) == (own.id, own.url, own.headers)
    live = await database.read(lambda tx: endpoints.live_secrets(tx, [own.id]))
    assert [each.secret.reveal() for each in live[own.id]] == [FIRST]


async def test_nothing_is_written_of_a_statement_whose_check_fails(database: Database) -> None:
    """The ordinary transaction then records what can be recorded, each once."""
    sent = Sent()
    await add_endpoint(database)
    offer = LeaseOffer(NODE, 100)
    [warm, taken, mine] = await register(database, sent, new_run("w"), new_run("t"), new_run("m"), offer=offer)
    await finish(database, sent, warm)
    await database.write(
        lambda tx: tx.connection.execute(sa.text("UPDATE runs SET leased_by = 'x' WHERE id = :i"), {"i": taken.id})
    )
    assert [run and run.id for run in await finish(database, sent, taken, mine)] == [None, mine.id]
    assert sent.alone[-2:] == [True, False]
    assert [run and run.id for run in await finish(database, sent, mine)] == [None], "its version has changed"
    feed = await database.read(lambda tx: events.list_feed(tx, after=0, limit=10))
    assert [event.run_id for event in feed] == [warm.id, mine.id]


async def test_a_run_that_is_watched_already_is_found(database: Database) -> None:
    sent = Sent()
    [first] = await register(database, sent, new_run("a"))
    [known, new] = await register(database, sent, new_run("a"), new_run("b"))
    assert (known.id, sent.alone) == (first.id, [True, True, False])
    assert new.id != first.id


async def test_an_evicted_node_leases_no_run_that_it_registers(database: Database) -> None:
    sent = Sent()
    [run] = await register(database, sent, new_run("a"), offer=LeaseOffer("gone", 10))
    assert sent.alone == [True, False]
    query = sa.text("SELECT leased_by FROM runs WHERE id = :id")
    assert await database.read(lambda tx: tx.connection.execute(query, {"id": run.id}).scalar()) is None


async def test_a_new_endpoint_gets_the_next_event(database: Database) -> None:
    """Endpoints are remembered from one statement to the next, and another node may add one in between."""
    sent = Sent()
    made = await register(database, sent, *(new_run(name) for name in "abcd"))
    await finish(database, sent, made[0], node=None)
    added = await add_endpoint(database)
    await finish(database, sent, made[1], node=None)
    await database.write(lambda tx: endpoints.disable_endpoint(tx, added.id, "test"))
    await finish(database, sent, made[2], node=None)
    await database.write(lambda tx: endpoints.enable_endpoint(tx, added.id))
    await finish(database, sent, made[3], node=None)
    claimed = await claim(database, added.id)
    assert [each.delivery.run_id for each in claimed] == [made[1].id, made[3].id]


@pytest.mark.parametrize("setting", ["ordered", "failures"])
async def test_attempts_of_an_unusual_endpoint_are_recorded_by_a_transaction(database: Database, setting: str) -> None:
    sent = Sent()
    endpoint = await add_endpoint(database)
    made = await register(database, sent, new_run("a"))
    await finish(database, sent, *made, node=None)
    claimed = await claim(database, endpoint.id)
    change = sa.text(f"UPDATE endpoints SET {setting} = {'TRUE' if setting == 'ordered' else '1'}")
    await database.write(lambda tx: tx.connection.execute(change))
    health, done = await record(database, sent, *claimed)
    assert (done, sent.alone[-2:]) == ([True], [True, False])
    assert health[0] is not None
    assert (health[0].before == health[0].after) is (setting == "ordered")


async def test_deliveries_are_leased_with_the_secrets_that_sign_now(database: Database) -> None:
    """The secrets are remembered as the endpoints are; rotating one makes the next recording read them again."""
    sent, leased = Sent(), list[LeasedDelivery]()
    database.listeners.append(lambda signals: leased.extend(signals.leased_deliveries))
    endpoint = await add_endpoint(database, secret=FIRST)
    made = await register(database, sent, *(new_run(name) for name in "abcd"))
    offer = DeliveryOffer(NODE, lambda _endpoint: 1)
    sent.alone.clear()
    for run in made[:2]:
        await finish(database, sent, run, node=None, offer=offer)
    ended = Secret(SECOND)
    await database.write(lambda tx: endpoints.rotate_secret(tx, endpoint.id, ended, old_until=tx.now))
    for run in made[2:]:
        await finish(database, sent, run, node=None, offer=offer)
    assert sent.alone == [True, False, True, True, False, True]
    assert [[s.secret.reveal() for s in each.secrets] for each in leased] == [[FIRST]] * 2 + [[SECOND]] * 2
    assert await database.read(lambda tx: deliveries.list_leased(tx, node=NODE)) == {d.delivery.id for d in leased}


async def test_other_nodes_hear_of_it_after_the_commit(database: Database, postgresql_url: str) -> None:
    sent, heard = Sent(), set[str]()
    await finish(database, sent, *await register(database, sent, new_run("a")), node=None)
    other = Database(postgresql_url, SystemClock())
    await other.open()
    try:
        other.listeners.append(lambda signals: heard.update(signals.settled_run_ids))
        listener = other.notify_listener()
        await listener.keep_open(10.0)
        database.has_other_nodes = True
        made = await register(database, sent, new_run("b"), new_run("c"))
        for run in made:
            await finish(database, sent, run, node=None)
        assert sent.alone[-2:] == [True, True]
        await until(lambda: heard == {run.id for run in made})
        listener.close()
    finally:
        await other.close()


async def test_a_failed_attempt_is_recorded_by_a_transaction(database: Database) -> None:
    sent = Sent()
    endpoint = await add_endpoint(database)
    await finish(database, sent, *await register(database, sent, new_run("a")), node=None)
    claimed = await claim(database, endpoint.id)
    health, done = await record(database, sent, *claimed, outcome=Outcome.SERVER_ERROR)
    assert (done, sent.alone[-2:]) == ([True], [True, False])
    assert health[0] is not None
    assert health[0].after.failures == 1


async def test_the_attempt_of_a_node_that_lost_its_claim_is_not_recorded(database: Database) -> None:
    sent = Sent()
    endpoint = await add_endpoint(database)
    await finish(database, sent, *await register(database, sent, new_run("a")), node=None)
    claimed = await claim(database, endpoint.id)
    _, done = await record(database, sent, *claimed, node="another")
    assert done == [False]
    assert not (await database.read(lambda tx: attempts.list_attempts(tx, [claimed[0].delivery.id])))
