"""Deliveries in the database, on every engine alike: claiming, attempts, order, and what a changed endpoint does."""

from __future__ import annotations

from datetime import datetime, timedelta

from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.run import RunError
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import attempts, deliveries, endpoints, events
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import DeliveryFilter, due_endpoints
from bridge.store.transaction import Tx
from tests.support.delivering import all_deliveries
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import NODE, add_endpoint, record, register


async def claim_deliveries(database: Database, endpoint_id: str, node: str = NODE) -> list[deliveries.LeasedDelivery]:
    return await database.write(lambda tx: deliveries.acquire_due(tx, node=node, endpoint_id=endpoint_id, limit=10))


async def attempt(
    database: Database,
    claimed: deliveries.LeasedDelivery,
    outcome: Outcome = Outcome.DELIVERED,
    *,
    state: DeliveryState = DeliveryState.DELIVERED,
    next_attempt_at: datetime | None = None,
    node: str = NODE,
) -> None:
    answer = PostResult(outcome, 12, 200 if outcome is Outcome.DELIVERED else 500, head=b"ok", phases={"connect": 1})
    result = AttemptResult(claimed.delivery, START, answer, state, next_attempt_at)
    await database.write(lambda tx: attempts.record_attempts(tx, node=node, results=[result]))


async def test_an_attempt_is_recorded_once_and_never_without_its_claim(database: Database) -> None:
    endpoint = await add_endpoint(database)
    for name in ("1", "2"):
        await record(database, await register(database, name), "succeeded")
    first, second = sorted(await claim_deliveries(database, endpoint.id), key=lambda each: each.delivery.id)
    await database.write(lambda tx: deliveries.release(tx, node=NODE, delivery_ids=[second.delivery.id]))
    answer = PostResult(Outcome.DELIVERED, duration_ms=1, status=204)

    def record_both(tx: Tx) -> list[bool]:
        results = [
            AttemptResult(each.delivery, tx.now, answer, DeliveryState.DELIVERED, None) for each in (first, second)
        ]
        return attempts.record_attempts(tx, node=NODE, results=results)

    assert await database.write(record_both) == [True, False]
    assert await database.write(record_both) == [False, False]
    assert [d.state for d in await all_deliveries(database)] == [DeliveryState.DELIVERED, DeliveryState.PENDING]


async def test_due_endpoints_are_found_whatever_stands_before_them(database: Database, clock: ManualClock) -> None:
    one, two = await add_endpoint(database), await add_endpoint(database)
    for number in range(5):
        await record(database, await register(database, str(number)), "succeeded")
    due = await database.read(due_endpoints)
    assert {endpoint_id: each.at for endpoint_id, each in due.items()} == {one.id: START, two.id: START}
    assert len(await claim_deliveries(database, one.id)) == 5
    assert list(await database.read(due_endpoints)) == [two.id]
    clock.advance(1)
    assert await claim_deliveries(database, one.id) == []


async def test_a_claimed_delivery_brings_all_that_its_post_needs(database: Database) -> None:
    secret = new_secret()
    endpoint = await add_endpoint(database, secret=secret, headers={"x-team": "ops"})
    await record(database, await register(database), "failed", error=RunError("no", "E1", "step"))
    (claimed,) = await claim_deliveries(database, endpoint.id)
    assert claimed.endpoint.headers == {"x-team": "ops"}
    assert [live.secret.reveal() for live in claimed.secrets] == [secret]
    event = await database.read(lambda tx: events.get_event(tx, claimed.delivery.event_id))
    assert event is not None
    assert claimed.body == event.body


async def test_a_failed_attempt_is_recorded_and_due_again_later(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database)
    await record(database, await register(database), "succeeded")
    (claimed,) = await claim_deliveries(database, endpoint.id)
    again_at = START + timedelta(seconds=5)
    await attempt(database, claimed, Outcome.SERVER_ERROR, state=DeliveryState.PENDING, next_attempt_at=again_at)
    assert await claim_deliveries(database, endpoint.id) == []
    clock.advance(5)
    (again,) = await claim_deliveries(database, endpoint.id)
    assert (again.delivery.attempts, again.delivery.failures, again.delivery.last_status) == (1, 1, 500)
    await attempt(database, again)
    found = await database.read(lambda tx: deliveries.get_delivery(tx, again.delivery.id))
    assert found is not None
    assert (found.state, found.attempts, found.settled_at) == (DeliveryState.DELIVERED, 2, clock.now())
    kept = (await database.read(lambda tx: attempts.list_attempts(tx, [found.id])))[found.id]
    assert [(a.number, a.answer.outcome, a.answer.head, a.next_attempt_at) for a in kept] == [
        (1, Outcome.SERVER_ERROR, b"ok", again_at),
        (2, Outcome.DELIVERED, b"ok", None),
    ]


async def test_an_interrupted_delivery_costs_no_attempt(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await record(database, await register(database), "succeeded")
    (claimed,) = await claim_deliveries(database, endpoint.id)
    await database.write(lambda tx: deliveries.release(tx, node=NODE, delivery_ids=[claimed.delivery.id]))
    (again,) = await claim_deliveries(database, endpoint.id)
    assert again.delivery == claimed.delivery


async def test_an_ordered_endpoint_gets_the_next_event_after_the_one_before(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    run, other = await register(database, "1"), await register(database, "2")
    run = await record(database, run, "running") or run
    run = await record(database, run, "waiting") or run
    await record(database, run, "succeeded")
    await record(database, other, "succeeded")
    first = await claim_deliveries(database, endpoint.id)
    assert sorted(c.delivery.event_type for c in first) == ["run.finished", "run.started"]
    (started,) = (c for c in first if c.delivery.event_type == "run.started")
    await attempt(database, started, Outcome.SERVER_ERROR, state=DeliveryState.EXHAUSTED)
    (waiting,) = await claim_deliveries(database, endpoint.id)
    assert waiting.delivery.event_type == "run.waiting"
    await attempt(database, waiting)
    (finished,) = await claim_deliveries(database, endpoint.id)
    assert (finished.delivery.event_type, finished.delivery.run_id) == ("run.finished", run.id)


async def test_a_disabled_endpoint_keeps_its_backlog_and_gets_it_when_enabled(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await record(database, await register(database, "1"), "succeeded")
    assert await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "410"))
    assert not await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "410"))
    await record(database, await register(database, "2"), "succeeded")
    assert await claim_deliveries(database, endpoint.id) == []
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    assert len(await claim_deliveries(database, endpoint.id)) == 1


async def test_enabling_an_ordered_endpoint_keeps_its_order(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    run = await register(database)
    run = await record(database, run, "running") or run
    await record(database, run, "succeeded")
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "410"))
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    assert [c.delivery.event_type for c in await claim_deliveries(database, endpoint.id)] == ["run.started"]


async def test_a_removed_endpoint_discards_what_it_had_not_got(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await record(database, await register(database), "succeeded")
    await database.write(lambda tx: endpoints.remove_endpoint(tx, endpoint.id))
    assert await claim_deliveries(database, endpoint.id) == []
    (owed,) = await database.read(lambda tx: deliveries.list_deliveries(tx, DeliveryFilter(), limit=9, before=None))
    assert owed.state is DeliveryState.DISCARDED
    assert await database.read(lambda tx: endpoints.get_endpoint(tx, endpoint.id)) is None


async def test_rotation_lets_both_secrets_sign_until_the_overlap_ends(database: Database, clock: ManualClock) -> None:
    old, new = new_secret(), new_secret()
    endpoint = await add_endpoint(database, secret=old)
    until = START + timedelta(hours=24)
    await database.write(lambda tx: endpoints.rotate_secret(tx, endpoint.id, Secret(new), old_until=until))

    async def live() -> list[str]:
        found = await database.read(lambda tx: endpoints.live_secrets(tx, [endpoint.id]))
        return [secret.secret.reveal() for secret in found[endpoint.id]]

    assert await live() == [new, old]
    clock.advance(86401)
    assert await live() == [new]
