"""Rules for every database engine; each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import await_only

from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.errors import Conflict, StoreUnavailable
from bridge.domain.event import EventType
from bridge.domain.ids import new_id
from bridge.domain.run import Json, RunError, RunStatus
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.domain.transition import settle
from bridge.store import connections, deliveries, endpoints, events, idempotency, nodes, run_leases, run_lists, runs
from bridge.store.database import Database
from bridge.store.deliveries import DeliveryFilter
from bridge.store.run_leases import PollRecord
from bridge.store.run_lists import RunFilter
from bridge.store.runs import LeaseOffer
from bridge.store.transaction import CommitSignals, Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import NODE, add_endpoint, new_run, only, record, register


@pytest.fixture
async def database(either: Database) -> Database:
    if not either.is_sqlite:
        await either.write(lambda tx: nodes.join(tx, node="node_2", host="there", pid=2, version="0"))
    return either


def body_of(event: events.Event) -> dict[str, Json]:
    body = json.loads(event.body)
    assert isinstance(body, dict)
    return body


async def claim(database: Database, node: str = NODE, *, limit: int = 10) -> list[runs.Run]:
    return await database.write(
        lambda tx: run_leases.acquire_due(tx, node=node, connection="dify-prod", until=tx.now, limit=limit)
    )


async def test_a_registered_run_comes_back_as_it_was_given(database: Database) -> None:
    given = await register(
        database,
        "ünï-✓",
        workflow_id="wf",
        metadata={"order": {"n": 2**60, "text": "ünï\n✓", "none": None}},
        tags=("a", "b"),
        deadline_at=START + timedelta(days=3, microseconds=1),
    )
    found = await database.read(lambda tx: runs.get_run(tx, given.id))
    assert found == given
    assert given.status is RunStatus.QUEUED
    assert given.next_poll_at == START
    assert given.metadata == {"order": {"n": 2**60, "text": "ünï\n✓", "none": None}}
    assert given.deadline_at == START + timedelta(days=3, microseconds=1)


async def test_a_run_is_claimed_by_one_node_only_until_it_is_put_back(database: Database, clock: ManualClock) -> None:
    run = await register(database)
    assert [r.id for r in await claim(database)] == [run.id]
    assert await claim(database, "node_2") == []
    later = START + timedelta(seconds=40)
    back = PollRecord(run.id, 3, START, later, 1, 2, START)
    await database.write(lambda tx: run_leases.save_polls(tx, node="node_2", records=[back]))
    assert await database.read(lambda tx: run_leases.next_due_at(tx, "dify-prod")) is None, "not node_2's to give back"
    await database.write(lambda tx: run_leases.save_polls(tx, node=NODE, records=[back]))
    assert await database.read(lambda tx: run_leases.next_due_at(tx, "dify-prod")) == later
    assert await claim(database, "node_2") == []
    clock.advance(40)
    (again,) = await claim(database, "node_2")
    assert (again.polls, again.last_polled_at, again.failure_streak, again.not_found_count) == (3, START, 1, 2)


async def test_new_runs_are_leased_to_the_node_that_offers_to_poll_them_and_the_others_are_due(
    database: Database,
) -> None:
    heard: list[CommitSignals] = []
    database.listeners.append(heard.append)
    new = [new_run("a"), new_run("b"), new_run("c", connection="other")]
    made = await database.write(lambda tx: runs.insert_runs(tx, new, {"dify-prod": LeaseOffer(NODE, 1)}))
    assert [(said.leased_runs, said.connections_due) for said in heard] == [(made[:1], {"dify-prod", "other"})]
    for connection, leased, due in (("dify-prod", {made[0].id}, [made[1].id]), ("other", set(), [made[2].id])):
        found = await database.write(lambda tx, c=connection: run_leases.list_leased(tx, node=NODE, connection=c))
        assert found == leased
        claimed = await database.write(
            lambda tx, c=connection: run_leases.acquire_due(tx, node="node_2", connection=c, until=tx.now, limit=9)
        )
        assert [run.id for run in claimed] == due


async def test_one_of_two_nodes_leases_half_of_the_runs_that_are_registered_with_it(database: Database) -> None:
    new = [new_run(f"r{number}") for number in range(400)]
    await database.write(lambda tx: runs.insert_runs(tx, new, {"dify-prod": LeaseOffer(NODE, 999, sharers=2)}))
    leased = await database.read(lambda tx: run_leases.list_leased(tx, node=NODE, connection="dify-prod"))
    assert 100 < len(leased) < 300


async def test_the_most_overdue_runs_of_the_connection_are_claimed_first(
    database: Database, clock: ManualClock
) -> None:
    first = await register(database, "1")
    await register(database, "other", connection="hub")
    clock.advance(1)
    second = await register(database, "2")
    clock.advance(1)
    await register(database, "3")
    assert {r.id for r in await claim(database, limit=2)} == {first.id, second.id}
    held = await claim(database, limit=10)
    assert [r.provider_run_id for r in held] == ["3"]


async def test_one_transition_records_run_event_and_deliveries_together(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await add_endpoint(database, events=only("run.waiting"))
    run = await register(database, metadata={"order": 42}, tags=("urgent",))
    after = await record(
        database, run, "succeeded", output={"result": "é"}, finished_at="2026-01-15T10:30:00.123456789Z"
    )
    assert after is not None
    assert (after.version, after.sequence, after.next_poll_at) == (2, 1, None)
    (event,) = await database.read(lambda tx: events.list_run_events(tx, run.id))
    body = body_of(event)
    assert body["type"] == "run.finished"
    data = body["data"]
    assert isinstance(data, dict)
    assert (data["sequence"], data["previous_status"]) == (1, "queued")
    shown = data["run"]
    assert isinstance(shown, dict)
    assert shown["output"] == {"result": "é"}
    assert shown["metadata"] == {"order": 42}
    assert shown["tags"] == ["urgent"]
    assert shown["finished_at"] == "2026-01-15T10:30:00.123456789Z"
    owed = await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=10, before=None))
    assert [(d.endpoint_id, d.event_id, d.state) for d in owed] == [(endpoint.id, event.id, DeliveryState.PENDING)]
    (row,) = await database.read(lambda tx: runs.list_transitions(tx, run.id))
    assert (row.from_status, row.to_status, row.provider_status) == ("queued", "succeeded", "succeeded")


async def test_a_stale_version_changes_nothing(database: Database) -> None:
    """Two nodes that saw the same finish tell it once."""
    await add_endpoint(database)
    run = await register(database)
    assert await record(database, run, "succeeded") is not None
    assert await record(database, run, "failed") is None
    assert len(await database.read(lambda tx: events.list_run_events(tx, run.id))) == 1


async def test_a_claim_that_was_lost_cannot_be_written_with(database: Database) -> None:
    """A node that slept past its lease finds its writes refused."""
    run = await register(database)
    (held,) = await claim(database)
    await database.write(lambda tx: nodes.leave(tx, NODE))
    assert await record(database, held, "succeeded", node=NODE) is None
    (taken,) = await claim(database, "node_2")
    assert await record(database, taken, "succeeded", node="node_2") is not None
    assert (await database.read(lambda tx: runs.get_run(tx, run.id))).status is RunStatus.SUCCEEDED  # type: ignore[union-attr]


async def test_a_read_sees_one_moment_though_others_write_meanwhile(database: Database) -> None:
    """Otherwise a delivery is shown as pending beside the attempt that has just delivered it."""
    loop = asyncio.get_running_loop()

    def count_twice(tx: Tx) -> tuple[int, int]:
        before = len(run_lists.list_runs(tx, RunFilter(), limit=10, before=None))
        if database.is_sqlite:  # whose reads have threads of their own
            asyncio.run_coroutine_threadsafe(register(database, "r2"), loop).result(10)
        else:
            await_only(register(database, "r2"))
        return before, len(run_lists.list_runs(tx, RunFilter(), limit=10, before=None))

    await register(database, "r1")
    assert await database.read(count_twice) == (1, 1)


async def test_many_at_once_still_record_one_finish(database: Database) -> None:
    run = await register(database)
    answers = await asyncio.gather(*(record(database, run, "succeeded") for _ in range(8)))
    assert sum(answer is not None for answer in answers) == 1


async def test_sequences_run_on_without_gaps_over_several_observations(database: Database) -> None:
    run = await register(database)
    for status in ("running", "waiting", "running", "waiting", "partial"):
        run = await record(database, run, status) or run
    told = await database.read(lambda tx: events.list_run_events(tx, run.id))
    assert [(e.sequence, e.type.value) for e in told] == [
        (1, "run.started"),
        (2, "run.waiting"),
        (3, "run.resumed"),
        (4, "run.waiting"),
        (5, "run.finished"),
    ]


async def test_progress_is_reported_only_where_an_endpoint_asks(database: Database) -> None:
    run = await register(database)
    other = await register(database, "2")
    ids = [run.id, other.id]
    assert await database.read(lambda tx: endpoints.runs_wanting_progress(tx, ids)) == set()
    await add_endpoint(database, run_id=run.id, events=only("run.progressed"))
    assert await database.read(lambda tx: endpoints.runs_wanting_progress(tx, ids)) == {run.id}
    await add_endpoint(database, events=only("run.progressed"))
    assert await database.read(lambda tx: endpoints.runs_wanting_progress(tx, ids)) == set(ids)


async def test_a_one_run_webhook_gets_events_of_its_run_only(database: Database) -> None:
    run, other = await register(database, "1"), await register(database, "2")
    own = await add_endpoint(database, run_id=run.id, events=only("run.finished"))
    await record(database, run, "succeeded")
    await record(database, other, "succeeded")
    owed = await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=10, before=None))
    assert [(d.endpoint_id, d.run_id) for d in owed] == [(own.id, run.id)]


async def test_the_first_one_run_webhook_of_all_gets_events_of_its_run(database: Database) -> None:
    """Events were recorded before while no run had a webhook of its own."""
    await record(database, await register(database, "1"), "succeeded")
    run = await register(database, "2")
    own = Endpoint(id=new_id("ep"), url="https://own.example.org", source=EndpointSource.RUN, run_id=run.id)
    await database.write(lambda tx: endpoints.insert_run_endpoints(tx, [(own, Secret(new_secret()))]))
    await record(database, run, "succeeded")
    owed = await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=10, before=None))
    assert [(d.endpoint_id, d.run_id) for d in owed] == [(own.id, run.id)]


async def test_a_filter_decides_on_the_body(database: Database) -> None:
    await add_endpoint(database, filter="data.run.status == 'failed'")
    for number, status in enumerate(("succeeded", "failed")):
        await record(database, await register(database, str(number)), status)
    owed = await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=10, before=None))
    assert len(owed) == 1


async def test_the_feed_goes_on_behind_a_position_in_the_order_of_recording(database: Database) -> None:
    for number in range(4):
        await record(database, await register(database, str(number)), "succeeded")
    all_of_it = await database.read(lambda tx: events.list_feed(tx, after=0, limit=10))
    positions = [event.position or 0 for event in all_of_it]
    assert positions == sorted(positions)
    rest = await database.read(lambda tx: events.list_feed(tx, after=positions[1], limit=10))
    assert [event.id for event in rest] == [event.id for event in all_of_it[2:]]


async def test_runs_are_listed_newest_first_by_every_filter(database: Database) -> None:
    a = await register(database, "1", tags=("x", "y"), workflow_id="w1")
    b = await register(database, "2", connection="hub", tags=("x",))
    await record(database, b, "failed")

    async def ids(**wanted: Any) -> list[str]:
        found = await database.read(lambda tx: run_lists.list_runs(tx, RunFilter(**wanted), limit=10, before=None))
        return [run.id for run in found]

    assert await ids() == [b.id, a.id]
    assert await ids(tag="x") == [b.id, a.id]
    assert await ids(tag="y") == [a.id]
    assert await ids(connection="hub", statuses=["failed"]) == [b.id]
    assert await ids(workflow_id="w1") == [a.id]
    older = await database.read(lambda tx: run_lists.list_runs(tx, RunFilter(), limit=10, before=b.id))
    assert [run.id for run in older] == [a.id]


async def test_runs_of_any_status_are_listed_newest_first_whether_a_node_leases_them_or_not(database: Database) -> None:
    async def listed(*statuses: str, limit: int = 9, before: str | None = None) -> list[str]:
        wanted = RunFilter(statuses=statuses)
        found = await database.read(lambda tx: run_lists.list_runs(tx, wanted, limit=limit, before=before))
        return [run.provider_run_id for run in found]

    made = {name: await register(database, name) for name in ("free", "leased", "running", "failed", "succeeded")}
    for name in ("running", "failed", "succeeded"):
        await record(database, made[name], name)
    await database.write(
        lambda tx: run_leases.acquire_due(tx, node=NODE, connection="dify-prod", until=tx.now, limit=9)
    )
    await register(database, "new")
    assert await listed("queued") == ["new", "leased", "free"]
    assert await listed("queued", limit=2) == ["new", "leased"]
    assert await listed("queued", before=made["leased"].id) == ["free"]
    assert await listed("succeeded") == ["succeeded"]
    assert await listed("running", "failed", "succeeded", "lost") == ["succeeded", "failed", "running"]
    counted = await database.read(runs.count_active)
    assert counted == {("dify-prod", "queued"): 3, ("dify-prod", "running"): 1}


async def test_a_removed_run_is_gone_but_its_events_stay(database: Database) -> None:
    run = await register(database, tags=("x",))
    await record(database, run, "running")
    assert await database.write(lambda tx: runs.delete_run(tx, run.id))
    assert not await database.write(lambda tx: runs.delete_run(tx, run.id))
    assert await database.read(lambda tx: runs.get_run(tx, run.id)) is None
    assert len(await database.read(lambda tx: events.list_run_events(tx, run.id))) == 1
    again = await register(database)
    assert again.id != run.id


async def test_health_changes_are_reported_once_each(database: Database) -> None:
    async def turn(health: ConnectionHealth, reason: str | None = None) -> bool:
        return await database.write(
            lambda tx: connections.change_health(tx, "hub", provider="instabase", health=health, reason=reason)
        )

    turns = [
        await turn(ConnectionHealth.OK),
        await turn(ConnectionHealth.FAILING, "401"),
        await turn(ConnectionHealth.FAILING, "401"),
        await turn(ConnectionHealth.OK),
    ]
    assert turns == [False, True, False, True]
    told = await database.read(lambda tx: events.list_feed(tx, after=0, limit=10))
    assert [event.type for event in told] == [EventType.CONNECTION_FAILING, EventType.CONNECTION_RECOVERED]
    data = body_of(told[0])["data"]
    assert isinstance(data, dict)
    assert data["run"] is None
    assert data["sequence"] is None


async def test_the_first_answer_to_an_idempotency_key_is_the_one_kept(database: Database) -> None:
    first = idempotency.StoredResponse("f", 201, b"one")
    await database.write(lambda tx: idempotency.store_responses(tx, [("k", first)]))
    with pytest.raises(Conflict):
        await database.write(lambda tx: idempotency.store_responses(tx, [("k", replace(first, body=b"two"))]))
    assert await database.read(lambda tx: idempotency.find_responses(tx, ["none", "k"])) == [None, first]


async def test_a_callers_mistake_undoes_only_its_own_work(database: Database) -> None:
    def bad(tx: Tx) -> None:
        runs.insert_runs(tx, [new_run("half")])
        raise ValueError("half-way")

    good, failed = await asyncio.gather(register(database, "whole"), database.write(bad), return_exceptions=True)
    assert isinstance(failed, ValueError)
    assert isinstance(good, runs.Run)
    found = await database.read(lambda tx: runs.find_watched(tx, "dify-prod", ["half", "whole"]))
    assert list(found) == ["whole"]


def be_cut_off(tx: Tx) -> None:
    raise sa.exc.OperationalError("SELECT 1", {}, Exception("the connection is lost"))


@pytest.mark.parametrize("door", ["read", "write"])
async def test_a_database_that_failed_counts_as_unavailable_for_ten_seconds(
    database: Database, clock: ManualClock, door: str
) -> None:
    assert database.is_available
    with pytest.raises(StoreUnavailable):
        await getattr(database, door)(be_cut_off)
    clock.advance(9.9)
    assert not database.is_available
    clock.advance(0.2)
    assert database.is_available


async def test_a_write_that_wrote_something_shows_that_the_database_is_back(database: Database) -> None:
    """A full disk takes transactions that change nothing."""
    with pytest.raises(StoreUnavailable):
        await database.write(be_cut_off)
    await database.write(lambda tx: tx.connection.execute(sa.text("SELECT 1")).scalar())
    assert not database.is_available
    await register(database)
    assert database.is_available


async def test_commits_announce_what_became_due(database: Database) -> None:
    heard = []
    database.listeners.append(heard.append)
    await add_endpoint(database)
    await record(database, await register(database), "succeeded")
    assert any("dify-prod" in said.connections_due for said in heard)
    assert any(said.deliveries_due and said.events_recorded and said.settled_run_ids for said in heard)


@pytest.mark.parametrize("is_leased", [False, True])
async def test_expired_runs_are_found_unless_they_wait_for_a_person(
    database: Database, clock: ManualClock, *, is_leased: bool
) -> None:
    late = await register(database, "late", deadline_at=START + timedelta(seconds=1))
    waiting = await register(database, "waiting", deadline_at=START + timedelta(seconds=1))
    await record(database, waiting, "waiting")
    clock.advance(5)
    if is_leased:
        assert len(await claim(database)) == 2
    found = await database.read(lambda tx: runs.list_expired(tx, tx.now, 10))
    assert [run.id for run in found] == [late.id]

    def expire(tx: Tx) -> runs.Run | None:
        decision = settle(late, RunStatus.EXPIRED, RunError("late"), now=tx.now)
        assert decision is not None
        return runs.record_decision(tx, late, decision, node=None, keep_lease=False)

    after = await database.write(expire)
    assert after is not None
    assert after.status is RunStatus.EXPIRED


async def test_a_new_start_frees_the_claims_of_the_daemon_before(database: Database) -> None:
    """On SQLite at once (there is only one daemon); on PostgreSQL when the dead node's lease has run out."""
    run = await register(database)
    await claim(database)
    if database.is_sqlite:
        await database.write(lambda tx: nodes.join(tx, node=new_id("node"), host="h", pid=2, version="0"))
    else:
        assert await database.write(lambda tx: nodes.renew(tx, NODE, lease_s=-1))
        assert await database.write(nodes.evict_dead) == [NODE]
    assert [r.id for r in await claim(database, "node_2")] == [run.id]
