"""The deliverer against a receiver that verifies with other people's libraries."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix

from bridge.delivery.deliverer import DeliverySettings
from bridge.delivery.sender import Sender
from bridge.domain.clock import SystemClock
from bridge.domain.delivery import DeliveryState, Outcome, PostResult, RetrySchedule
from bridge.domain.endpoint import EndpointSource
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.runtime.metrics import Metrics
from bridge.sandbox import Receiver, Reply, ReplyKind
from bridge.store import deliveries, endpoints, events
from bridge.store.batching import GroupedWrites
from bridge.store.database import Database
from tests.support.delivering import (
    IN_FIVE_MINUTES,
    NEVER_AGAIN,
    all_deliveries,
    attempts_of,
    deliver_all,
    open_deliverer,
    start_due,
)
from tests.support.manual_clock import START, ManualClock
from tests.support.waiting import until
from tests.support.watching import add_endpoint, open_database, record, register
from tests.support.workbench import work


@pytest.fixture
def clock() -> SystemClock:
    """The official libraries hold timestamps against the machine's clock."""
    return SystemClock()


async def test_a_delivery_is_verified_by_the_official_libraries(database: Database, receiver: Receiver) -> None:
    secret = new_secret()
    await add_endpoint(database, receiver.url(), secret=secret)
    await record(database, await register(database, metadata={"é": "✓"}), "succeeded", output={"text": "naïve"})
    async with open_deliverer(database) as deliverer:
        (delivery,) = await deliver_all(deliverer, database)
    assert delivery.state is DeliveryState.DELIVERED
    (arrived,) = receiver.received
    standardwebhooks.Webhook(secret).verify(arrived.body, arrived.headers)
    svix.Webhook(secret).verify(arrived.body, arrived.headers)
    event = await database.read(lambda tx: events.get_event(tx, delivery.event_id))
    assert event is not None
    assert arrived.body == event.body
    assert arrived.id == event.id == json.loads(arrived.body)["id"]
    assert arrived.headers["content-type"] == "application/json"
    assert arrived.headers["user-agent"].startswith("runbridge/")


async def test_a_retry_sends_the_same_id_and_bytes_with_a_fresh_timestamp(
    database: Database, receiver: Receiver
) -> None:
    receiver.script(Reply(500, body="oops"), Reply(503))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    async with open_deliverer(database) as deliverer:
        (delivery,) = await deliver_all(deliverer, database)
    assert (delivery.attempts, delivery.failures) == (3, 2)
    assert len({(a.id, a.body) for a in receiver.received}) == 1
    first, second, third = await attempts_of(database, delivery)
    assert (first.answer.outcome, first.answer.status, first.answer.head) == (Outcome.SERVER_ERROR, 500, b"oops")
    assert first.next_attempt_at is not None
    assert second.at >= first.next_attempt_at
    assert third.answer.outcome is Outcome.DELIVERED


async def test_only_a_delivery_counts_as_the_time_of_an_event_to_its_first_delivery(
    database: Database, receiver: Receiver
) -> None:
    """Each attempt has a time of its own; the one from event to delivery would look good while nothing arrives."""
    metrics = Metrics()
    receiver.script(Reply(500))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")

    def counts() -> list[float | None]:
        names = ("delivery_duration_seconds_count", "event_to_delivered_seconds_count")
        return [metrics.registry.get_sample_value(f"runbridge_{name}") for name in names]

    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, metrics=metrics) as deliverer:
        await start_due(deliverer)
        assert counts() == [1, 0]
        (failed,) = await all_deliveries(database)
        await database.write(lambda tx: deliveries.retry_now(tx, [failed.id]))
        await start_due(deliverer)
        assert counts() == [2, 0], "a retry by hand says nothing of how long an event takes"
        await record(database, await register(database, "another"), "succeeded")
        await start_due(deliverer)
        assert counts() == [3, 1]


@pytest.mark.parametrize(("status", "asks"), [(204, False), (500, True)])
async def test_only_an_end_that_changes_the_endpoint_asks_for_another_pass(
    database: Database, receiver: Receiver, status: int, asks: bool
) -> None:
    """A pass for each plain delivery would be a query more for each event."""
    receiver.always(Reply(status))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES) as deliverer:
        await deliverer.run_pass()
        await until(lambda: not deliverer.in_flight)
        assert await deliverer.bell.wait(0) is asks


async def test_a_used_up_schedule_leaves_the_delivery_exhausted_and_a_person_can_retry(
    database: Database, receiver: Receiver
) -> None:
    receiver.always(Reply(500))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    async with open_deliverer(database) as deliverer:
        (delivery,) = await deliver_all(deliverer, database)
        assert (delivery.state, delivery.attempts) == (DeliveryState.EXHAUSTED, 4)
        receiver.always(None)
        assert await database.write(lambda tx: deliveries.retry_now(tx, [delivery.id])) == 1
        (again,) = await deliver_all(deliverer, database)
    assert again.state is DeliveryState.DELIVERED
    tried = await attempts_of(database, again)
    assert [a.is_manual for a in tried] == [False] * 4 + [True]
    assert len({a.id for a in receiver.received}) == 1


async def test_a_redirect_is_a_failure_that_is_not_followed(database: Database, receiver: Receiver) -> None:
    receiver.always(Reply(302, headers={"Location": receiver.url("/elsewhere")}))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    async with open_deliverer(database, schedule=RetrySchedule(())) as deliverer:
        (delivery,) = await deliver_all(deliverer, database)
    assert (delivery.state, delivery.last_outcome) == (DeliveryState.EXHAUSTED, Outcome.REDIRECT)
    assert {a.path for a in receiver.received} == {"/hooks"}


async def test_gone_disables_the_endpoint_keeps_its_backlog_and_notifies_the_others(
    database: Database, receiver: Receiver
) -> None:
    receiver.always(Reply(410), path="/gone")
    gone = await add_endpoint(database, receiver.url("/gone"))
    await add_endpoint(database, receiver.url("/other"))
    await record(database, await register(database), "failed")

    async def disabled() -> bool:
        endpoint = await database.read(lambda tx: endpoints.get_endpoint(tx, gone.id))
        return endpoint is not None and not endpoint.enabled

    async with open_deliverer(database) as deliverer:
        await work(deliverer.run_pass, deliverer.bell, disabled)

        async def is_received() -> bool:
            return any(a.type == "endpoint.disabled" for a in receiver.received)

        await work(deliverer.run_pass, deliverer.bell, is_received)
        (notice,) = (a for a in receiver.received if a.type == "endpoint.disabled")
        assert notice.path == "/other"
        assert "410" in json.dumps(notice.event)
        (kept,) = (d for d in await all_deliveries(database) if d.endpoint_id == gone.id)
        assert kept.state is DeliveryState.PENDING
        receiver.always(None, path="/gone")
        await database.write(lambda tx: endpoints.enable_endpoint(tx, gone.id))
        await deliver_all(deliverer, database)
    assert [a.type for a in receiver.received if a.path == "/gone" and a.status == 204] == ["run.finished"]


async def test_metadata_addresses_are_refused_at_the_dial_and_the_attempt_says_so(database: Database) -> None:
    await add_endpoint(database, "http://169.254.169.254/latest/meta-data")
    await record(database, await register(database), "failed")
    async with open_deliverer(database, schedule=RetrySchedule(())) as deliverer:
        (delivery,) = await deliver_all(deliverer, database)
    assert delivery.last_outcome is Outcome.BLOCKED_ADDRESS
    (tried,) = await attempts_of(database, delivery)
    assert tried.answer.detail is not None
    assert "169.254.169.254" in tried.answer.detail


async def test_loopback_is_for_the_operators_file_or_the_allow_list_only(
    database: Database, receiver: Receiver
) -> None:
    secret = new_secret()
    await add_endpoint(database, receiver.url("/api"))
    await add_endpoint(database, receiver.url("/file"), source=EndpointSource.CONFIG)
    await record(database, await register(database), "failed")
    (of_file,) = [
        e for e in await database.read(lambda tx: endpoints.list_endpoints(tx, limit=9)) if e.url.endswith("file")
    ]
    secrets = {of_file.id: Secret(secret)}
    async with open_deliverer(database, schedule=RetrySchedule(()), allow=(), file_secrets=secrets) as deliverer:
        await deliver_all(deliverer, database)
    (arrived,) = receiver.received
    assert arrived.path == "/file"
    standardwebhooks.Webhook(secret).verify(arrived.body, arrived.headers)


async def test_during_rotation_both_secrets_verify(database: Database, receiver: Receiver) -> None:
    old, new = new_secret(), new_secret()
    endpoint = await add_endpoint(database, receiver.url(), secret=old)
    until = SystemClock().now().replace(year=2099)
    await database.write(lambda tx: endpoints.rotate_secret(tx, endpoint.id, Secret(new), old_until=until))
    await record(database, await register(database), "failed")
    async with open_deliverer(database) as deliverer:
        await deliver_all(deliverer, database)
    (arrived,) = receiver.received
    for secret in (old, new):
        standardwebhooks.Webhook(secret).verify(arrived.body, arrived.headers)


async def test_a_hanging_endpoint_holds_up_no_other(database: Database, receiver: Receiver) -> None:
    receiver.always(Reply(kind=ReplyKind.HANG), path="/slow")
    slow = await add_endpoint(database, receiver.url("/slow"))
    await add_endpoint(database, receiver.url("/quick"))
    for number in range(20):
        await record(database, await register(database, str(number)), "failed")

    async def quick_is_done() -> bool:
        found = await all_deliveries(database)
        return all(d.state is DeliveryState.DELIVERED for d in found if d.endpoint_id != slow.id)

    async with open_deliverer(database, timeout_s=30, slots=10, slots_per_endpoint=4) as deliverer:
        await work(deliverer.run_pass, deliverer.bell, quick_is_done)
    assert sum(a.path == "/slow" for a in receiver.received) <= 4


@pytest.mark.parametrize(("status", "arrive"), [(204, 6), (500, 2)])
async def test_a_receiver_that_accepted_gets_the_next_post_before_the_first_is_recorded(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, status: int, arrive: int
) -> None:
    grouped = database.grouped

    def only_the_first(record_all: Any) -> GroupedWrites[Any, Any]:
        writes, first = grouped(record_all), asyncio.Lock()  # which is never released

        async def write(posted: object) -> object:
            await first.acquire()
            return await writes.submit(posted)

        return GroupedWrites(write)

    monkeypatch.setattr(database, "grouped", only_the_first)
    monkeypatch.setattr("bridge.delivery.deliverer.UNRECORDED_MAX", 4)
    receiver.always(Reply(status))
    await add_endpoint(database, receiver.url())
    for number in range(10):
        await record(database, await register(database, str(number)), "failed")

    async def nothing_moves() -> bool:
        before = len(receiver.received)
        has_rung = await deliverer.bell.wait(0.2)  # as it would when a slot is released
        is_recorded = any(d.attempts for d in await all_deliveries(database))
        return before >= arrive and is_recorded and not has_rung and len(receiver.received) == before

    async with open_deliverer(database, schedule=NEVER_AGAIN, slots_per_endpoint=1) as deliverer:
        await work(deliverer.run_pass, deliverer.bell, nothing_moves)
        recorded = [d for d in await all_deliveries(database) if d.attempts]
    assert (len(receiver.received), len(recorded)) == (arrive, 1)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
async def test_a_retry_counts_from_its_recording_though_the_clock_was_set_since_its_post(
    tmp_path: Path, jump_s: float
) -> None:
    """With the clock set back by an hour, a retry due in 5 minutes waited for 65."""
    clock = ManualClock(START)

    class Secrets(dict[str, Secret]):
        def get(self, *_: object) -> Secret:
            """No secret, so that the attempt ends at once; the clock is set after it began."""
            clock.set_wall(jump_s)
            return Secret("")

    async with open_database(f"sqlite:///{tmp_path / 'clock.db'}", clock) as database:
        await add_endpoint(database)
        await record(database, await register(database), "failed")
        async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock, file_secrets=Secrets()) as deliverer:
            assert await start_due(deliverer) == pytest.approx(300.0)
        (delivery,) = await all_deliveries(database)
        assert delivery.last_outcome is Outcome.UNSIGNED


async def test_stopping_gives_back_what_it_cuts_off_and_costs_no_attempt(
    database: Database, receiver: Receiver
) -> None:
    receiver.always(Reply(kind=ReplyKind.HANG))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    async with open_deliverer(database, timeout_s=30) as deliverer:
        await deliverer.run_pass()
        await receiver.wait_for(bool, 60)
        await deliverer.drain(0.05)
    (delivery,) = await all_deliveries(database)
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 0)
    receiver.always(None)
    async with open_deliverer(database) as deliverer:
        (after,) = await deliver_all(deliverer, database)
    assert (after.state, after.attempts) == (DeliveryState.DELIVERED, 1)


async def test_an_idle_deliverer_rests_until_something_is_due(database: Database, receiver: Receiver) -> None:
    async with open_deliverer(database) as deliverer:
        assert await deliverer.run_pass() == float("inf")
        receiver.always(Reply(500))
        await add_endpoint(database, receiver.url())
        await record(database, await register(database), "failed")
        deliverer.settings = DeliverySettings(RetrySchedule((300.0,), jitter=0.0))
        await deliverer.run_pass()

        async def tried() -> bool:
            (delivery,) = await all_deliveries(database)
            return delivery.attempts == 1

        await work(deliverer.run_pass, deliverer.bell, tried)
        await asyncio.sleep(0)
        rest_s = await deliverer.run_pass()
    assert 290 < rest_s <= 300


async def test_order_is_kept_where_it_was_asked_for_through_failures(database: Database, receiver: Receiver) -> None:
    receiver.script(Reply(500), Reply(500))
    await add_endpoint(database, receiver.url(), ordered=True)
    run = await register(database)
    for status in ("running", "waiting", "running", "succeeded"):
        run = await record(database, run, status) or run
    async with open_deliverer(database) as deliverer:
        await deliver_all(deliverer, database)
    taken = [a.type for a in receiver.received if a.status == 204]
    assert taken == ["run.started", "run.waiting", "run.resumed", "run.finished"]


async def test_a_delivery_that_broke_the_deliverer_is_tried_again_a_while_later(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite, too, where its claim would otherwise stand until a restart."""
    monkeypatch.setattr("bridge.delivery.deliverer.CRASHED_REST_S", 0.1)
    post, breaks = Sender.post, [RecursionError("too deep")]

    async def post_or_break(*args: Any, **more: Any) -> PostResult:
        if breaks:
            raise breaks.pop()
        return await post(*args, **more)

    monkeypatch.setattr(Sender, "post", post_or_break)
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "succeeded")
    async with open_deliverer(database) as deliverer:
        (delivery,) = await deliver_all(deliverer, database)
    assert delivery.state is DeliveryState.DELIVERED
    assert not breaks


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_the_trace_context_of_a_run_goes_to_the_endpoints_that_ask_for_it(
    database: Database, receiver: Receiver
) -> None:
    """The others get nothing of what the registrant's program sent about itself; a retry gets the same."""
    await add_endpoint(database, receiver.url("/asks"), trace_context=True)
    await add_endpoint(database, receiver.url("/does-not"))
    receiver.script(Reply(status=500), path="/asks")
    run = await register(database, trace_context=f"{TRACEPARENT} rojo=1")
    await record(database, run, "succeeded")
    async with open_deliverer(database) as deliverer:
        await deliver_all(deliverer, database)
    sent = {(one.path, one.headers.get("traceparent"), one.headers.get("tracestate")) for one in receiver.received}
    assert sent == {("/asks", TRACEPARENT, "rojo=1"), ("/does-not", None, None)}
    assert [one.path for one in receiver.received].count("/asks") == 2
