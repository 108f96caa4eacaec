"""Receivers that are slow, down for a day, or gone for good, lived through on a clock that the tests move."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest

from bridge.domain.delivery import STARTING_S, DeliveryState, Lane, RetrySchedule
from bridge.domain.event import EventType, other_event
from bridge.domain.ids import new_id
from bridge.domain.run import Json
from bridge.runtime.metrics import Metrics
from bridge.sandbox import Receiver, Reply, ReplyKind
from bridge.store import deliveries, endpoints, events
from bridge.store.database import Database
from tests.support.delivering import (
    IN_FIVE_MINUTES,
    all_deliveries,
    attempts_of,
    endpoint_now,
    live_until,
    open_deliverer,
    start_due,
)
from tests.support.manual_clock import START, ManualClock
from tests.support.watching import add_endpoint, only, record, register

DOWN = "http://127.0.0.1:1/hooks"  # a closed port: refused at once


async def finish_runs(database: Database, count: int, prefix: str = "r") -> None:
    for number in range(count):
        await record(database, await register(database, f"{prefix}{number}"), "failed")


async def back_up(database: Database, receiver: Receiver) -> None:
    """Record 30 deliveries for a receiver that refuses all of them."""
    receiver.always(Reply(500))
    await add_endpoint(database, receiver.url())
    await finish_runs(database, 30)


async def ping(database: Database, endpoint) -> str:
    ping = other_event(new_id("evt"), EventType.BRIDGE_PING, {}, now=database.clock.now())
    await database.write(lambda tx: events.record_events(tx, [ping], only=endpoint, lane=Lane.AT_ONCE))
    return ping.id


async def test_a_failing_endpoint_is_probed_with_one_delivery_and_the_rest_waits(
    database: Database, clock: ManualClock
) -> None:
    await add_endpoint(database, DOWN)
    await finish_runs(database, 40)
    clock.advance(STARTING_S)  # its receiver is not just starting
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock, slots_per_endpoint=1) as deliverer:
        await start_due(deliverer)
        assert sum(d.attempts for d in await all_deliveries(database)) == 5
        for _ in range(5):  # rests of 5, 10, 20, 40 and 80 s
            clock.advance(await start_due(deliverer))
        await start_due(deliverer)
        found = await all_deliveries(database)
    assert Counter(d.attempts for d in found) == {1: 10, 0: 30}, "one each: a probe uses up no attempts of the others"


async def test_the_first_success_lets_the_whole_backlog_go(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await back_up(database, receiver)
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(minutes=2))
        receiver.always(None)
        before = len(receiver.received)
        clock.advance(await start_due(deliverer))
        await start_due(deliverer)
        assert len(receiver.received) - before >= 30 - before
        await live_until(deliverer, clock, clock.now() + timedelta(minutes=6))
    assert {d.state for d in await all_deliveries(database)} == {DeliveryState.DELIVERED}


async def test_a_probe_is_one_delivery_at_a_time_however_many_wait(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await back_up(database, receiver)
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(seconds=4))
        receiver.always(Reply(kind=ReplyKind.HANG))
        before = len(receiver.received)
        clock.advance(1)
        for _ in range(5):
            await deliverer.run_pass()
        await receiver.wait_for(lambda all_: len(all_) > before)
        assert deliverer.in_flight == 1
        assert len(receiver.received) == before + 1


async def test_a_ping_goes_to_a_resting_endpoint_at_once_and_its_success_opens_it(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    """This is how an operator sees whether a repair has worked."""
    receiver.always(Reply(500))
    endpoint = await add_endpoint(database, receiver.url())
    await finish_runs(database, 20)
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock, slots_per_endpoint=1) as deliverer:
        await start_due(deliverer)
        receiver.always(None)
        sent = await ping(database, endpoint)
        before = len(receiver.received)
        await start_due(deliverer)
    assert receiver.received[before].id == sent
    assert sum(d.state is DeliveryState.DELIVERED for d in await all_deliveries(database)) == 1 + 15


async def test_a_retry_by_hand_waits_for_no_rest(database: Database, clock: ManualClock, receiver: Receiver) -> None:
    receiver.always(Reply(500))
    await add_endpoint(database, receiver.url())
    await finish_runs(database, 10)
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await start_due(deliverer)
        chosen = (await all_deliveries(database))[-1]
        before = len(receiver.received)
        await database.write(lambda tx: deliveries.retry_now(tx, [chosen.id], lane=Lane.AT_ONCE))
        await start_due(deliverer)
    assert [one.id for one in receiver.received[before:]] == [chosen.event_id]


async def test_a_rate_limit_spreads_a_backlog_and_costs_no_attempts(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await add_endpoint(database, receiver.url(), rate_limit=2.0)
    await finish_runs(database, 20)
    counts = []
    async with open_deliverer(database, clock=clock) as deliverer:
        for second in range(1, 11):
            await live_until(deliverer, clock, START + timedelta(seconds=second))
            counts.append(len(receiver.received))
        assert await start_due(deliverer) == float("inf")
    assert counts == [4, 6, 8, 10, 12, 14, 16, 18, 20, 20]
    assert {d.attempts for d in await all_deliveries(database)} == {1}


async def test_retries_do_not_starve_behind_a_stream_of_new_deliveries(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    receiver.always(Reply(400))
    await add_endpoint(database, receiver.url(), rate_limit=1.0)
    await finish_runs(database, 8, "old")
    async with open_deliverer(database, schedule=RetrySchedule((5.0,) * 9, jitter=0.0), clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(seconds=8))
        receiver.always(None)
        await finish_runs(database, 100, "new")
        before = len(receiver.received)
        await live_until(deliverer, clock, START + timedelta(seconds=8 + 40))
    later = receiver.received[before:]
    old = {d.event_id for d in (await all_deliveries(database))[:8]}
    assert len(later) == 40
    assert sum(one.id in old for one in later) == 8, "all of them within four times their number"


async def test_no_pass_is_made_in_vain_while_endpoints_rest(database: Database, clock: ManualClock) -> None:
    """A paused, limited or resting endpoint with a backlog must not keep the worker busy."""
    await add_endpoint(database, DOWN)
    await add_endpoint(database, DOWN, rate_limit=0.01)
    await finish_runs(database, 50)
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        rests = []
        for _ in range(30):
            rests.append(await start_due(deliverer))
            clock.advance(rests[-1])
    assert min(rests) >= 1, rests
    assert sum(rests) > 1000


SCHEDULE = RetrySchedule(jitter=0.0)


@pytest.mark.slow
async def test_a_day_of_outage_loses_nothing_and_holds_up_no_other_endpoint(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    """One receiver is down for a day; two runs an hour go on finishing."""
    receiver.always(Reply(503), path="/down")
    finished = only("run.finished")
    down = await add_endpoint(database, receiver.url("/down"), events=finished)
    well = await add_endpoint(database, receiver.url("/well"), events=finished)
    async with open_deliverer(database, schedule=SCHEDULE, clock=clock) as deliverer:
        for hour in range(24):
            await finish_runs(database, 2, f"{hour}-")
            await live_until(deliverer, clock, START + timedelta(hours=hour + 1))
            found = await all_deliveries(database, endpoint_id=well.id)
            assert {(d.state, d.attempts) for d in found} == {(DeliveryState.DELIVERED, 1)}
        found = await all_deliveries(database, endpoint_id=down.id)
        assert {d.state for d in found} == {DeliveryState.PENDING}, "nothing is lost, nothing is used up"
        assert max(d.failures for d in found) <= 7, "of ten: 5 s to 5 h are over after a day"
        posts = sum(one.path == "/down" for one in receiver.received)
        assert posts < 24 * 12 + 100, "one probe in five minutes"
        assert (await endpoint_now(database, down)).enabled
        receiver.always(None, path="/down")
        await live_until(deliverer, clock, clock.now() + timedelta(hours=15))
    found = await all_deliveries(database, endpoint_id=down.id)
    assert {d.state for d in found} == {DeliveryState.DELIVERED}
    taken = [one.id for one in receiver.received if one.path == "/down" and one.status == 204]
    assert sorted(taken) == sorted(d.event_id for d in found), "each of them once"
    assert (await endpoint_now(database, down)).failing_since is None


@pytest.mark.slow
async def test_five_days_of_outage_warn_disable_and_keep_the_backlog(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    finished = only("run.finished")
    down = await add_endpoint(database, DOWN, events=finished)
    await add_endpoint(database, receiver.url("/operator"), events=only("endpoint.failing", "endpoint.disabled"))
    metrics = Metrics()
    async with open_deliverer(database, schedule=SCHEDULE, clock=clock, metrics=metrics) as deliverer:
        for day in range(5):
            await finish_runs(database, 3, f"{day}-")
            await live_until(deliverer, clock, START + timedelta(days=day + 1))
        (warned,) = notices(receiver)
        assert warned["type"] == "endpoint.failing"
        warned_after = datetime.fromisoformat(str(warned["timestamp"])) - START
        assert timedelta(hours=60) <= warned_after < timedelta(hours=72), "with the first attempt after half the time"
        await finish_runs(database, 3, "last-")
        await live_until(deliverer, clock, START + timedelta(days=5, hours=6))
        assert [event["type"] for event in notices(receiver)] == ["endpoint.failing", "endpoint.disabled"]
        now = await endpoint_now(database, down)
        assert not now.enabled
        assert "5 days" in str(now.disabled_reason)
        assert metrics.registry.get_sample_value("runbridge_endpoints_disabled_total", {"cause": "failing"}) == 1
        assert metrics.registry.get_sample_value("runbridge_endpoints_failing_total") == 1
        kept = [d for d in await all_deliveries(database, endpoint_id=down.id) if d.state is DeliveryState.PENDING]
        assert kept
        assert {d.next_attempt_at for d in kept} == {None}
        await repaired(database, down, receiver)
        await start_due(deliverer)
    assert {d.state for d in await all_deliveries(database)} <= {DeliveryState.DELIVERED, DeliveryState.EXHAUSTED}
    arrived = {one.id for one in receiver.received if one.path == "/repaired"}
    assert arrived == {d.event_id for d in kept}


def notices(receiver: Receiver) -> list[dict[str, Json]]:
    """The notices to the operator's endpoint."""
    return [one.event for one in receiver.received if one.path == "/operator"]


async def repaired(database: Database, endpoint, receiver: Receiver) -> None:
    def repair(tx) -> None:
        present = endpoints.get_endpoint(tx, endpoint.id)
        assert present is not None
        endpoints.update_endpoint(tx, present.model_copy(update={"url": receiver.url("/repaired")}))
        endpoints.enable_endpoint(tx, endpoint.id)

    await database.write(repair)


async def test_order_holds_through_an_outage(database: Database, clock: ManualClock, receiver: Receiver) -> None:
    """Failures, rests, probes and a switch-off in between: each run's events arrive in their order, once."""
    endpoint = await add_endpoint(database, receiver.url(), ordered=True)
    for number in range(6):
        run = await register(database, str(number))
        for status in ("running", "waiting", "running", "succeeded"):
            run = await record(database, run, status) or run
    receiver.every(3, Reply(500))
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(minutes=10))
        receiver.every(1, Reply(503, headers={"Retry-After": "60"}))
        await live_until(deliverer, clock, START + timedelta(minutes=20))
        receiver.every(2, Reply(500))
        await database.write(lambda tx: endpoints.disable_endpoint(tx, endpoint.id, "a test"))
        await live_until(deliverer, clock, START + timedelta(minutes=30))
        await database.write(lambda tx: endpoints.enable_endpoint(tx, endpoint.id))
        await live_until(deliverer, clock, START + timedelta(hours=8))
    assert {d.state for d in await all_deliveries(database)} == {DeliveryState.DELIVERED}
    by_run: dict[str, list[int]] = {}
    for one in receiver.received:
        if one.status == 204:
            data = one.event["data"]
            by_run.setdefault(data["run"]["id"], []).append(data["sequence"])
    assert sorted(by_run.values()) == [[1, 2, 3, 4]] * 6


async def test_a_failing_run_does_not_hold_up_others_at_an_ordered_endpoint(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await add_endpoint(database, receiver.url(), ordered=True, events=only("run.started", "run.finished"))
    receiver.script(Reply(400))
    for number in range(3):
        run = await register(database, str(number))
        for status in ("running", "succeeded"):
            run = await record(database, run, status) or run
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await start_due(deliverer)
    states = [d.state is DeliveryState.DELIVERED for d in await all_deliveries(database)]
    assert states.count(True) == 4, "both of two runs, none of the one that failed"


async def test_every_attempt_says_when_the_next_was_planned(database: Database, clock: ManualClock) -> None:
    await add_endpoint(database, DOWN)
    await finish_runs(database, 1)
    async with open_deliverer(database, schedule=SCHEDULE, clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(hours=10))
    (delivery,) = await all_deliveries(database)
    tried = await attempts_of(database, delivery)
    planned = [a.next_attempt_at for a in tried]
    assert planned[-1] == delivery.next_attempt_at
    assert all(later.at >= before for later, before in zip(tried[1:], planned, strict=False) if before)


async def test_a_receiver_that_starts_late_gets_its_first_webhook_soon_and_no_retry_is_used_up(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    """By the schedule alone the third attempt would come five minutes later."""
    late = await add_endpoint(database, DOWN)
    await finish_runs(database, 1)
    async with open_deliverer(database, schedule=RetrySchedule(jitter=0.0), clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(seconds=10))
        await database.write(
            lambda tx: endpoints.update_endpoint(tx, late.model_copy(update={"url": receiver.url("/late")}))
        )
        await live_until(deliverer, clock, START + timedelta(seconds=30))
        (delivery,) = await all_deliveries(database)
    assert (delivery.state, delivery.attempts, delivery.failures) == (DeliveryState.DELIVERED, 3, 1)


async def test_a_receiver_that_never_comes_up_is_tried_by_the_schedule_after_five_minutes(
    database: Database, clock: ManualClock
) -> None:
    await add_endpoint(database, DOWN)
    await finish_runs(database, 1)
    async with open_deliverer(database, schedule=RetrySchedule(jitter=0.0), clock=clock) as deliverer:
        await live_until(deliverer, clock, START + timedelta(seconds=290))
        (before,) = await all_deliveries(database)
        await live_until(deliverer, clock, START + timedelta(hours=2))
        (after,) = await all_deliveries(database)
    assert before.failures == 1
    assert after.failures == 4, "after 5 and 30 minutes"


async def test_a_receiver_that_has_answered_once_is_tried_by_the_schedule(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    known = await add_endpoint(database, receiver.url("/known"))
    await finish_runs(database, 1)
    async with open_deliverer(database, schedule=RetrySchedule(jitter=0.0), clock=clock) as deliverer:
        await start_due(deliverer)
        await database.write(lambda tx: endpoints.update_endpoint(tx, known.model_copy(update={"url": DOWN})))
        await finish_runs(database, 1, prefix="later")
        await live_until(deliverer, clock, START + timedelta(seconds=60))
        delivery = (await all_deliveries(database))[-1]
    assert (delivery.attempts, delivery.failures) == (2, 2)
