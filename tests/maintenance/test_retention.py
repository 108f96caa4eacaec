"""Retention on both engines: oldest first, whole runs, in small batches, and never what is still needed."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa

from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import Endpoint
from bridge.domain.event import EventType
from bridge.domain.run import Run
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.maintenance.retention import Housekeeper, Retention
from bridge.runtime.metrics import Metrics
from bridge.store import attempts, connections, deliveries, endpoints, events, idempotency, replays, retention, runs
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import due_endpoints
from bridge.store.retention import DeletionPlan
from bridge.store.tables import metadata
from bridge.store.transaction import Tx
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import NODE, add_endpoint, only, open_database, record, register

DAY_S = 86400.0


def housekeeper(
    database: Database, clock: ManualClock, *, keep_s: float = DAY_S, size_bytes: int = 10**12
) -> Housekeeper:
    return Housekeeper(database=database, clock=clock, metrics=Metrics(), settings=Retention(keep_s, size_bytes))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.maintenance.retention.PAUSE_S", 0.0)


async def rows(database: Database) -> Counter[str]:
    """How many rows each table holds, but for the nodes."""

    def look(tx: Tx) -> Counter[str]:
        counted = Counter[str]()
        for name, table in metadata.tables.items():
            counted[name] = tx.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        return +counted

    found = await database.read(look)
    del found["nodes"]
    return found


async def deliver(database: Database, *, state: DeliveryState = DeliveryState.DELIVERED) -> None:
    """Everything that is due ends so."""

    def work(tx: Tx) -> None:
        for endpoint_id in due_endpoints(tx):
            for one in deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint_id, limit=1000):
                answer = PostResult(Outcome.DELIVERED, 1, 204)
                attempts.record_attempts(
                    tx, node=NODE, results=[AttemptResult(one.delivery, tx.now, answer, state, None)]
                )

    await database.write(work)


async def finish(database: Database, name: str = "r", **more: object) -> Run:
    """A run that was registered, seen running, and succeeded."""
    run = await register(database, name, **more)
    run = await record(database, run, "running") or run
    return await record(database, run, "succeeded", output={"text": "x" * 4000}) or run


async def webhook_of(database: Database, run: Run) -> Endpoint:
    return await add_endpoint(database, run_id=run.id, events=only("run.finished"))


async def test_a_settled_run_goes_with_all_that_belongs_to_it_once_it_is_old_enough(
    database: Database, clock: ManualClock
) -> None:
    await add_endpoint(database)
    run = await register(database, tags=("a", "b"), metadata={"order": 7, "tenant": "x", "lines": [1]})
    await webhook_of(database, run)
    run = await record(database, run, "running") or run
    await record(database, run, "succeeded")
    await deliver(database)
    before = await rows(database)
    clock.advance(DAY_S)
    assert await housekeeper(database, clock).sweep() == Counter()
    clock.advance(0.001)
    swept = await housekeeper(database, clock).sweep()
    assert await rows(database) == {"endpoints": 1, "endpoint_secrets": 1}
    assert swept == before - Counter({"endpoints": 1, "endpoint_secrets": 1})
    assert {
        "runs": 1,
        "run_tags": 2,
        "run_metadata": 3,
        "transitions": 2,
        "events": 2,
        "deliveries": 3,
        "attempts": 3,
    }.items() <= swept.items()


async def test_what_is_watched_or_still_owed_stays_however_old(database: Database, clock: ManualClock) -> None:
    off = await add_endpoint(database)
    owed = await finish(database, "owed")
    await database.write(lambda tx: endpoints.disable_endpoint(tx, off.id, "a test"))
    watched = await register(database, "watched")
    await record(database, watched, "running")
    await finish(database, "done")
    before = await rows(database)
    clock.advance(400 * DAY_S)
    await housekeeper(database, clock, size_bytes=1).sweep()
    kept = await database.read(lambda tx: runs.get_runs(tx, [owed.id, watched.id]))
    assert set(kept) == {owed.id, watched.id}
    after = await rows(database)
    assert after["runs"] == before["runs"] - 1
    assert (after["deliveries"], after["events"]) == (before["deliveries"], before["events"] - 2)
    await database.write(lambda tx: endpoints.enable_endpoint(tx, off.id))
    await deliver(database)
    await housekeeper(database, clock).sweep()
    assert set(await database.read(lambda tx: runs.get_runs(tx, [owed.id, watched.id]))) == {watched.id}


async def test_events_without_a_run_go_by_age_too_unless_they_are_still_owed(
    database: Database, clock: ManualClock
) -> None:
    endpoint = await add_endpoint(database)
    run = await finish(database)
    await deliver(database)
    await database.write(lambda tx: runs.delete_run(tx, run.id))

    def ping(tx: Tx) -> None:
        events.record_endpoint_event(
            tx, EventType.ENDPOINT_DISABLED, Endpoint(id="ep_x", url="https://a", source=endpoint.source), "gone"
        )

    await database.write(ping)
    clock.advance(DAY_S + 1)
    await housekeeper(database, clock).sweep()
    left = await database.read(lambda tx: events.list_feed(tx, after=0, limit=9))
    assert [event.type for event in left] == [EventType.ENDPOINT_DISABLED]
    await deliver(database)
    await housekeeper(database, clock).sweep()
    assert await rows(database) == {"endpoints": 1, "endpoint_secrets": 1}


async def test_no_transaction_deletes_more_than_a_few_rows_and_each_leaves_whole_things(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_MAX", 7)
    monkeypatch.setattr(retention, "PARENTS_MAX", 3)
    for _ in range(3):
        await add_endpoint(database)
    for number in range(5):
        await webhook_of(database, await finish(database, f"r-{number}", tags=("a",)))
    await deliver(database)
    clock.advance(DAY_S + 1)
    seen = []
    while not (plan := await database.read(lambda tx: retention.plan_settled(tx, tx.now))).is_empty:
        done = await database.write(lambda tx, plan=plan: retention.delete_planned(tx, plan))
        seen.append(sum(done.values()))
        assert await hanging(database) == Counter()
    assert max(seen) <= 7
    assert min(seen) > 0
    assert await rows(database) == {"endpoints": 3, "endpoint_secrets": 3}


async def hanging(database: Database) -> Counter[str]:
    """Rows whose parent is gone."""
    parents = {
        "attempts": ("delivery_id", "deliveries"),
        "deliveries": ("event_id", "events"),
        "transitions": ("run_id", "runs"),
        "run_tags": ("run_id", "runs"),
        "run_metadata": ("run_id", "runs"),
        "endpoint_secrets": ("endpoint_id", "endpoints"),
    }

    def look(tx: Tx) -> Counter[str]:
        counted = Counter[str]()
        for child, (column, parent) in parents.items():
            query = (
                f"SELECT count(*) FROM {child} c WHERE NOT EXISTS (SELECT 1 FROM {parent} p WHERE p.id = c.{column})"
            )
            counted[child] = tx.connection.execute(sa.text(query)).scalar_one()
        return +counted

    return await database.read(look)


async def test_what_is_sent_again_between_looking_and_deleting_stays(database: Database, clock: ManualClock) -> None:
    await add_endpoint(database)
    run = await finish(database)
    await deliver(database)
    clock.advance(DAY_S + 1)
    plan = await database.read(lambda tx: retention.plan_settled(tx, tx.now))
    again = plan.deliveries[0]
    await database.write(lambda tx: deliveries.retry_now(tx, [again]))
    await database.write(lambda tx: retention.delete_planned(tx, plan))
    kept = await database.read(lambda tx: deliveries.get_delivery(tx, again))
    assert kept is not None
    assert await database.read(lambda tx: events.get_event(tx, kept.event_id)) is not None
    assert await database.read(lambda tx: runs.get_run(tx, run.id)) is not None


async def test_removed_endpoints_rotated_secrets_and_stored_responses_are_erased(
    database: Database, clock: ManualClock
) -> None:
    removed, rotated = await add_endpoint(database), await add_endpoint(database)
    run = await register(database)
    await webhook_of(database, run)
    await database.write(lambda tx: runs.delete_run(tx, run.id))
    await database.write(lambda tx: endpoints.remove_endpoint(tx, removed.id))
    await database.write(lambda tx: endpoints.rotate_secret(tx, rotated.id, Secret(new_secret()), old_until=tx.now))
    await database.write(
        lambda tx: idempotency.store_responses(tx, [("k", idempotency.StoredResponse("f", 201, b"{}"))])
    )
    clock.advance(3599)
    assert await housekeeper(database, clock).sweep() == Counter()
    clock.advance(2)
    assert await housekeeper(database, clock).sweep() == {"endpoints": 2, "endpoint_secrets": 2}
    assert await rows(database) == {"endpoints": 1, "endpoint_secrets": 1, "idempotency_keys": 1}
    clock.advance(DAY_S)
    assert await housekeeper(database, clock).sweep() == {"idempotency_keys": 1}


async def test_a_webhook_of_a_deleted_run_that_is_still_owed_its_event_keeps_its_secret(
    database: Database, clock: ManualClock
) -> None:
    run = await register(database)
    webhook = await webhook_of(database, run)
    await record(database, run, "succeeded")
    await database.write(lambda tx: runs.delete_run(tx, run.id))
    clock.advance(DAY_S + 1)
    await housekeeper(database, clock).sweep()
    assert await database.read(lambda tx: endpoints.live_secrets(tx, [webhook.id]))


async def test_what_has_only_its_own_time_is_not_deleted_because_the_clock_was_set_forward(
    database: Database, clock: ManualClock
) -> None:
    """A clock set forward by 40 days deleted the events of connections and the replays of that day."""
    endpoint = await add_endpoint(database)
    ended = await database.write(
        lambda tx: replays.start_replay(tx, endpoint, replays.Selection(START), rate=1, count=0)
    )
    await database.write(lambda tx: replays.cancel_replay(tx, ended.id))
    failing = ConnectionHealth.FAILING
    await database.write(
        lambda tx: connections.change_health(tx, "hub", provider="dibby", health=failing, reason="a test")
    )
    keeper = housekeeper(database, clock)
    await deliver(database)
    clock.set_wall(40 * DAY_S)
    keeper.rebase(40 * DAY_S)
    assert await keeper.sweep() == Counter()
    clock.set_wall(-40 * DAY_S)
    keeper.rebase(-40 * DAY_S)
    clock.advance(DAY_S + 1)
    swept = await keeper.sweep()
    assert {"events": 1, "replays": 1}.items() <= swept.items()


async def test_a_clock_that_was_set_forward_delays_nothing_once_that_is_long_enough_ago(
    database: Database, clock: ManualClock
) -> None:
    """What was recorded after the jump was kept for 40 days more, until the daemon started again."""
    keeper = housekeeper(database, clock)
    clock.set_wall(40 * DAY_S)
    keeper.rebase(40 * DAY_S)
    endpoint = await add_endpoint(database)
    ended = await database.write(
        lambda tx: replays.start_replay(tx, endpoint, replays.Selection(START), rate=1, count=0)
    )
    await database.write(lambda tx: replays.cancel_replay(tx, ended.id))
    clock.advance(DAY_S - 1)
    assert await keeper.sweep() == Counter()
    clock.advance(2)
    assert await keeper.sweep() == {"replays": 1}


async def test_replays_that_ended_go_by_age_and_running_ones_stay(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database)
    wanted = replays.Selection(START)
    first = await database.write(lambda tx: replays.start_replay(tx, endpoint, wanted, rate=1, count=0))
    second = await database.write(lambda tx: replays.start_replay(tx, endpoint, wanted, rate=1, count=0))
    await database.write(lambda tx: replays.cancel_replay(tx, first.id))
    clock.advance(DAY_S + 1)
    assert await housekeeper(database, clock).sweep() == {"replays": 1}
    assert await database.read(lambda tx: replays.get_replay(tx, second.id)) is not None


async def test_an_idle_sweep_writes_nothing(
    lone: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_endpoint(lone)
    await register(lone)
    keeper = housekeeper(lone, clock)

    async def refuse(_: object) -> None:
        raise AssertionError("an idle bridge wrote")

    monkeypatch.setattr(lone, "write", refuse)
    assert await keeper.sweep() == Counter()


async def test_beyond_its_size_the_oldest_settled_go_first_until_nine_tenths_are_left(
    lone: Database, clock: ManualClock
) -> None:
    from bridge.store import inspection

    made = []
    for number in range(100):
        made.append(await finish(lone, f"r-{number}"))
        clock.advance(1)
    await record(lone, await register(lone, "watched"), "running")
    full = (await lone.read(inspection.measure_size)).used
    limit = int(full * 0.8)
    swept = await housekeeper(lone, clock, size_bytes=limit).sweep()
    assert swept["runs"] > 0
    after = await lone.read(inspection.measure_size)
    assert after.used <= limit * 0.9
    left = await lone.read(lambda tx: runs.get_runs(tx, [run.id for run in made]))
    assert 0 < len(left) < 100
    assert set(left) == {run.id for run in made[-len(left) :]}
    assert after.free <= after.total * 0.1, "what was freed is given back to the disk"
    assert after.total < full


async def test_a_database_below_its_size_is_left_alone(database: Database, clock: ManualClock) -> None:
    for number in range(5):
        await finish(database, f"r-{number}")
    clock.advance(60)
    assert await housekeeper(database, clock).sweep() == Counter()


async def test_on_postgresql_the_rows_count_and_not_the_files_which_never_shrink(
    postgresql_url: str, clock: ManualClock
) -> None:
    """By the size of its files an empty database (7 MB) would be over 1 MB for ever, and everything would go."""
    async with open_database(postgresql_url, clock) as database:
        for number in range(30):
            await finish(database, f"r-{number}")
        clock.advance(60)
        assert await housekeeper(database, clock, size_bytes=10**6).sweep() == Counter()
        swept = await housekeeper(database, clock, size_bytes=10_000).sweep()
        assert swept["runs"] > 0


async def test_a_database_that_cannot_be_brought_down_says_so_once(
    lone: Database, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    await register(lone)
    keeper = housekeeper(lone, clock, size_bytes=1)
    for _ in range(3):
        await keeper.sweep()
    said = capsys.readouterr()
    assert (said.out + said.err).count("retention.too_large") == 1
    finding = keeper.check_size()
    assert finding is not None, "a remark of doctor, as long as it is so"
    assert "raise [retention] size" in finding.detail


def test_an_empty_plan_is_empty() -> None:
    assert DeletionPlan().is_empty
    assert not DeletionPlan(responses=("k",)).is_empty
