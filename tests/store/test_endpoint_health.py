"""How an endpoint stands and what it is owed in order, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from bridge.domain.auto_disable import AutoDisableStep
from bridge.domain.delivery import Delivery, DeliveryState, Lane, Outcome, PostResult
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.domain.ids import new_id
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import attempts, deliveries, endpoint_health, endpoints, events
from bridge.store.attempts import AttemptResult
from bridge.store.database import Database
from bridge.store.deliveries import LeasedDelivery, due_endpoints
from bridge.store.endpoint_health import HealthChange
from tests.support.delivering import all_deliveries, endpoint_now
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import NODE, add_endpoint, only, record, register

REFUSED = PostResult(Outcome.CONNECT, duration_ms=1)
TAKEN = PostResult(Outcome.DELIVERED, duration_ms=1, status=204)


async def note(database: Database, endpoint: Endpoint, answer: PostResult, times: int = 1) -> HealthChange | None:
    last = None
    for _ in range(times):
        last = await database.write(lambda tx: endpoint_health.apply_result(tx, endpoint.id, answer))
    return last


async def told(database: Database) -> list[tuple[str, dict]]:
    found = await database.read(lambda tx: events.list_feed(tx, after=0, limit=100))
    return [(event.type.value, json.loads(event.body)["data"]) for event in found]


async def four_events(database: Database, name: str = "abc") -> None:
    run = await register(database, name)
    for status in ("running", "waiting", "running", "succeeded"):
        run = await record(database, run, status) or run


async def claim(database: Database, endpoint: Endpoint) -> list[LeasedDelivery]:
    return await database.write(lambda tx: deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint.id, limit=100))


async def settle(
    database: Database,
    claimed: LeasedDelivery,
    state: DeliveryState = DeliveryState.DELIVERED,
    again_s: float | None = None,
) -> None:
    answer = TAKEN if state is DeliveryState.DELIVERED else REFUSED
    again_at = None if again_s is None else database.clock.now() + timedelta(seconds=again_s)
    result = AttemptResult(claimed.delivery, START, answer, state, again_at)
    await database.write(lambda tx: attempts.record_attempts(tx, node=NODE, results=[result]))


async def in_order(database: Database, endpoint: Endpoint) -> list[Delivery]:
    return await all_deliveries(database, endpoint_id=endpoint.id)


async def due_types(database: Database, endpoint: Endpoint) -> list[str]:
    """The deliveries that can be acquired now; they are released at once."""
    claimed = await claim(database, endpoint)
    ids = [each.delivery.id for each in claimed]
    await database.write(lambda tx: deliveries.release(tx, node=NODE, delivery_ids=ids))
    return [each.delivery.event_type for each in claimed]


# -- pace


async def test_the_pace_outlives_a_restart(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database)
    await four_events(database)
    await note(database, endpoint, REFUSED, 5)
    (due,) = (await database.read(due_endpoints)).values()
    assert due.backoff == EndpointBackoff(failures=5, probe_at=START + timedelta(seconds=5))
    assert (await endpoint_now(database, endpoint)).paused_until == due.backoff.probe_at
    clock.advance(5)
    await note(database, endpoint, PostResult(Outcome.THROTTLED, 1, 429, retry_after_s=3600))
    (due,) = (await database.read(due_endpoints)).values()
    assert due.backoff == EndpointBackoff(slowdowns=1, paused_until=clock.now() + timedelta(hours=1))


async def test_an_endpoint_that_is_well_costs_no_write(database: Database) -> None:
    endpoint = await add_endpoint(database)
    before = await database.read(lambda tx: tx.connection.exec_driver_sql("SELECT * FROM endpoints").all())
    changed = await note(database, endpoint, TAKEN)
    assert changed == HealthChange(EndpointBackoff(), EndpointBackoff())
    assert await database.read(lambda tx: tx.connection.exec_driver_sql("SELECT * FROM endpoints").all()) == before


async def test_an_endpoint_that_becomes_ordered_after_many_successes_releases_the_next_event(
    database: Database,
) -> None:
    """The memory of a healthy endpoint ends when a person changes it."""
    endpoint = await add_endpoint(database)
    await note(database, endpoint, TAKEN, 2)
    await database.write(lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": True})))
    await four_events(database)
    (first,) = await claim(database, endpoint)
    await note(database, endpoint, TAKEN)
    await settle(database, first)
    (second,) = await claim(database, endpoint)
    assert (first.delivery.event_type, second.delivery.event_type) == ("run.started", "run.waiting")


async def test_a_success_between_failures_starts_the_row_again(database: Database) -> None:
    endpoint = await add_endpoint(database)
    for _ in range(2):
        await note(database, endpoint, TAKEN, 2)
        await note(database, endpoint, REFUSED, 3)
        assert (await endpoint_now(database, endpoint)).failing_since is not None
    assert (await endpoint_now(database, endpoint)).paused_until is None, "five in a row would pause it"


@pytest.mark.parametrize("how", ["enabled again", "another url"])
async def test_a_person_who_changes_it_gives_it_a_clean_slate(database: Database, how: str) -> None:
    endpoint = await add_endpoint(database)
    await four_events(database)
    await note(database, endpoint, REFUSED, 7)

    def change(tx) -> None:
        if how == "another url":
            endpoints.update_endpoint(tx, endpoint.model_copy(update={"url": "https://new.example.org"}))
        else:
            endpoints.disable_endpoint(tx, endpoint.id, "a test")
            endpoints.enable_endpoint(tx, endpoint.id)

    await database.write(change)
    (due,) = (await database.read(due_endpoints)).values()
    assert due.backoff == EndpointBackoff()
    assert (await endpoint_now(database, endpoint)).failing_since is None


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.UNSIGNED])
async def test_what_is_not_its_fault_is_not_held_against_it(database: Database, outcome: Outcome) -> None:
    endpoint = await add_endpoint(database)
    assert await note(database, endpoint, PostResult(outcome, 0), 20) is None
    assert (await endpoint_now(database, endpoint)).failing_since is None


# -- its end


async def fail_for(database: Database, clock: ManualClock, endpoint: Endpoint, *, hours: int) -> list[AutoDisableStep]:
    """An attempt each hour, all failed."""
    steps = []
    for _ in range(hours + 1):
        done = await note(database, endpoint, REFUSED)
        steps.append(done.step if done else AutoDisableStep.NOTHING)
        clock.advance(3600)
    return steps


async def test_five_days_of_failure_warn_once_at_half_time_and_then_disable(
    database: Database, clock: ManualClock
) -> None:
    endpoint, other = await add_endpoint(database, description="the shop"), await add_endpoint(database)
    steps = await fail_for(database, clock, endpoint, hours=120)
    assert [(hour, step) for hour, step in enumerate(steps) if step is not AutoDisableStep.NOTHING] == [
        (60, AutoDisableStep.WARN),
        (120, AutoDisableStep.DISABLE),
    ]
    now = await endpoint_now(database, endpoint)
    assert not now.enabled
    assert now.disabled_reason is not None
    assert now.disabled_reason.startswith("all 121 attempts since 2026-01-15T10:30:00.000Z failed")
    (warned, ended) = await told(database)
    assert (warned[0], ended[0]) == ("endpoint.failing", "endpoint.disabled")
    for _, data in (warned, ended):
        assert data["run"] is None
        assert (data["endpoint"]["id"], data["endpoint"]["description"]) == (endpoint.id, "the shop")
    assert ended[1]["endpoint"]["reason"] == now.disabled_reason
    assert {d.endpoint_id for d in await all_deliveries(database)} == {other.id}, "the others are told, not it"


@pytest.mark.slow
async def test_sporadic_success_never_disables(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database)
    for _ in range(10):
        assert set(await fail_for(database, clock, endpoint, hours=59)) == {AutoDisableStep.NOTHING}
        await note(database, endpoint, TAKEN)
    assert (await endpoint_now(database, endpoint)).enabled
    assert await told(database) == []


async def test_a_second_episode_is_warned_of_again(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database)
    await fail_for(database, clock, endpoint, hours=70)
    await note(database, endpoint, TAKEN)
    await fail_for(database, clock, endpoint, hours=70)
    assert [event_type for event_type, _ in await told(database)] == ["endpoint.failing"] * 2


async def test_many_failures_in_a_short_time_do_not_disable(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database)
    for _ in range(200):
        await note(database, endpoint, REFUSED)
        clock.advance(60)
    assert (await endpoint_now(database, endpoint)).enabled


async def test_gone_disables_at_once(database: Database) -> None:
    endpoint = await add_endpoint(database)
    done = await note(database, endpoint, PostResult(Outcome.GONE, 1, 410))
    assert done is not None
    assert (done.step, done.cause) == (AutoDisableStep.DISABLE, "gone")
    assert not (await endpoint_now(database, endpoint)).enabled


async def test_a_one_run_endpoint_is_never_disabled(database: Database, clock: ManualClock) -> None:
    run = await register(database)
    endpoint = Endpoint(id=new_id("ep"), url="https://app.example.org/once", source=EndpointSource.RUN, run_id=run.id)
    await database.write(lambda tx: endpoints.insert_run_endpoints(tx, [(endpoint, Secret(new_secret()))]))
    await fail_for(database, clock, endpoint, hours=130)
    await note(database, endpoint, PostResult(Outcome.GONE, 1, 410))
    assert (await endpoint_now(database, endpoint)).enabled
    assert await told(database) == []


async def test_what_is_in_flight_when_it_is_disabled_is_kept_and_not_tried_again(database: Database) -> None:
    endpoint = await add_endpoint(database, events=only("run.finished"))
    await record(database, await register(database), "failed")
    (claimed,) = await claim(database, endpoint)
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    await settle(database, claimed, DeliveryState.PENDING, 5)
    assert await database.read(due_endpoints) == {}
    assert [d.next_attempt_at for d in await in_order(database, endpoint)] == [None]
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    assert await due_types(database, endpoint) == ["run.finished"]


async def test_a_backlog_that_was_given_back_during_a_switch_off_is_due_after_it(database: Database) -> None:
    """A daemon that stops while the endpoint is off must not leave a delivery that nothing makes due."""
    endpoint = await add_endpoint(database, events=only("run.finished"))
    await record(database, await register(database), "failed")
    (claimed,) = await claim(database, endpoint)
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    await database.write(lambda tx: deliveries.release(tx, node=NODE, delivery_ids=[claimed.delivery.id]))
    assert await due_types(database, endpoint) == ["run.finished"]


# -- lanes


async def test_lanes_are_claimed_in_the_order_asked_for(database: Database, clock: ManualClock) -> None:
    endpoint = await add_endpoint(database, events=only("run.finished"))
    for number in range(6):
        await record(database, await register(database, str(number)), "failed")
    for claimed in (await claim(database, endpoint))[:2]:
        await settle(database, claimed, DeliveryState.PENDING, 1)
    ids = [d.id for d in (await in_order(database, endpoint))[2:]]
    await database.write(lambda tx: deliveries.release(tx, node=NODE, delivery_ids=ids))
    clock.advance(1)
    await database.write(lambda tx: deliveries.retry_now(tx, ids[:1], lane=Lane.AT_ONCE))
    (due,) = (await database.read(due_endpoints)).values()
    assert set(due.lanes) == set(Lane)
    wanted = ((Lane.AT_ONCE, 9), (Lane.AGAIN, 1), (Lane.FRESH, 9), (Lane.AGAIN, 9))
    taken = await database.write(
        lambda tx: deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint.id, limit=5, lanes=wanted)
    )
    assert [c.delivery.lane for c in taken] == [Lane.AT_ONCE, Lane.AGAIN, Lane.FRESH, Lane.FRESH, Lane.FRESH]


async def test_a_retry_by_hand_gets_the_whole_schedule_again(database: Database) -> None:
    endpoint = await add_endpoint(database, events=only("run.finished"))
    await record(database, await register(database), "failed")
    for _ in range(3):
        (claimed,) = await claim(database, endpoint)
        await settle(database, claimed, DeliveryState.PENDING, 0)
    await database.write(lambda tx: deliveries.retry_now(tx, [claimed.delivery.id]))
    (again,) = await in_order(database, endpoint)
    assert (again.attempts, again.failures, again.is_manual, again.lane) == (3, 0, True, Lane.AGAIN)


# -- order


async def test_order_survives_a_switch_off_and_on(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    await four_events(database)
    await four_events(database, "other")
    await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
    assert await due_types(database, endpoint) == []
    await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
    assert await due_types(database, endpoint) == ["run.started"] * 2


async def test_order_asked_for_later_holds_what_stands_behind(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await four_events(database)
    assert len(await due_types(database, endpoint)) == 4
    await database.write(lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": True})))
    assert await due_types(database, endpoint) == ["run.started"]
    (first,) = await claim(database, endpoint)
    await settle(database, first)
    assert await due_types(database, endpoint) == ["run.waiting"]


async def test_order_asked_for_while_the_first_is_in_flight_still_releases_the_second(database: Database) -> None:
    endpoint = await add_endpoint(database)
    await four_events(database)
    taken = await database.write(lambda tx: deliveries.acquire_due(tx, node=NODE, endpoint_id=endpoint.id, limit=1))
    await database.write(lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": True})))
    assert await due_types(database, endpoint) == []
    await settle(database, taken[0])
    assert await due_types(database, endpoint) == ["run.waiting"]


async def test_order_no_longer_asked_for_lets_everything_go_but_keeps_planned_retries(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    await four_events(database)
    (first,) = await claim(database, endpoint)
    await settle(database, first, DeliveryState.PENDING, 7200)
    assert await due_types(database, endpoint) == []
    await database.write(lambda tx: endpoints.update_endpoint(tx, endpoint.model_copy(update={"ordered": False})))
    assert sorted(await due_types(database, endpoint)) == ["run.finished", "run.resumed", "run.waiting"]
    (kept, *_) = await in_order(database, endpoint)
    assert kept.next_attempt_at == START + timedelta(hours=2)


async def test_an_exhausted_predecessor_releases_the_next(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    await four_events(database)
    (first,) = await claim(database, endpoint)
    await settle(database, first, DeliveryState.EXHAUSTED)
    assert await due_types(database, endpoint) == ["run.waiting"]


async def test_a_replay_of_a_whole_run_goes_in_order_again(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    await four_events(database)
    for _ in range(4):
        (claimed,) = await claim(database, endpoint)
        await settle(database, claimed)
    ids = [d.id for d in await in_order(database, endpoint)]
    await database.write(lambda tx: deliveries.retry_now(tx, ids[::-1]))
    replayed = []
    for _ in range(4):
        (claimed,) = await claim(database, endpoint)
        replayed.append(claimed.delivery.event_type)
        await settle(database, claimed)
    assert replayed == ["run.started", "run.waiting", "run.resumed", "run.finished"]


async def test_a_retry_by_hand_does_not_overtake_what_is_still_owed(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    await four_events(database)
    last = (await in_order(database, endpoint))[-1]
    await database.write(lambda tx: deliveries.retry_now(tx, [last.id], lane=Lane.AT_ONCE))
    assert await due_types(database, endpoint) == ["run.started"]
    (first,) = await claim(database, endpoint)
    await settle(database, first, DeliveryState.PENDING, 60)
    await database.write(lambda tx: deliveries.retry_now(tx, [first.delivery.id], lane=Lane.AT_ONCE))
    assert await due_types(database, endpoint) == ["run.started"]


async def test_while_the_first_is_in_flight_nothing_else_of_its_run_is_offered(database: Database) -> None:
    endpoint = await add_endpoint(database, ordered=True)
    await four_events(database)
    assert len(await claim(database, endpoint)) == 1
    assert await claim(database, endpoint) == []
