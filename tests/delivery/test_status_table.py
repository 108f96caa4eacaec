"""The table of docs/delivery.md, row by row: what an answer means for the delivery and for its endpoint."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from bridge.domain.delivery import STARTING_RETRY_S, Attempt, Delivery, DeliveryState, Outcome
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.endpoint_backoff import EndpointBackoff
from bridge.domain.ids import new_id
from bridge.domain.secret import Secret
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.sandbox import Receiver, Reply, ReplyKind
from bridge.store import endpoints
from bridge.store.database import Database
from bridge.store.deliveries import due_endpoints
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
from tests.support.raw_server import raw_server, says
from tests.support.watching import add_endpoint, record, register

TABLE = Path(__file__).parents[2] / "docs" / "delivery.md"
PLANNED = START + timedelta(minutes=5)


class Tried:
    """One attempt of one delivery, with the state of both the delivery and its endpoint afterwards."""

    def __init__(self, delivery: Delivery, attempt: Attempt, endpoint: Endpoint, pace: EndpointBackoff) -> None:
        self.delivery, self.attempt, self.endpoint, self.backoff = delivery, attempt, endpoint, pace

    @property
    def result(self) -> tuple[Outcome, EndpointBackoff]:
        """The outcome, and the back-off that it brought."""
        return self.attempt.answer.outcome, self.backoff

    @property
    def is_retried(self) -> bool:
        """It waits for its next attempt as planned."""
        return self.delivery.state is DeliveryState.PENDING and self.delivery.next_attempt_at == PLANNED

    @property
    def is_retried_soon(self) -> bool:
        """It waits for an attempt beside those of the schedule: the receiver has never answered."""
        soon = START + timedelta(seconds=STARTING_RETRY_S)
        return self.delivery.failures == 0 and self.delivery.next_attempt_at == soon


async def pace_now(database: Database) -> EndpointBackoff:
    due = await database.read(due_endpoints)
    return next((one.backoff for one in due.values()), EndpointBackoff())


async def attempt(database: Database, clock: ManualClock, url: str, *, timeout_s: float = 20.0) -> Tried:
    """A fresh endpoint, one delivery, one attempt."""
    endpoint = await add_endpoint(database, url)
    await record(database, await register(database), "failed")
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock, timeout_s=timeout_s) as deliverer:
        await start_due(deliverer)
    (delivery,) = await all_deliveries(database)
    (tried,) = await attempts_of(database, delivery)
    assert (delivery.attempts, delivery.last_outcome) == (1, tried.answer.outcome)
    return Tried(delivery, tried, await endpoint_now(database, endpoint), await pace_now(database))


def test_every_outcome_stands_in_the_table() -> None:
    first_table = re.search(r"(?:^\|.*\n)+", TABLE.read_text(), re.MULTILINE)
    assert first_table is not None
    rows = [line.split("|")[2].strip() for line in first_table[0].splitlines() if re.match(r"\| .*`\w+` \|", line)]
    assert {word.strip("`") for word in rows} == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_delivered(database: Database, clock: ManualClock, receiver: Receiver, status: int) -> None:
    receiver.always(Reply(status))
    tried = await attempt(database, clock, receiver.url())
    assert tried.delivery.state is DeliveryState.DELIVERED
    assert (tried.backoff, tried.endpoint.failing_since) == (EndpointBackoff(), None)


async def test_2xx_is_delivered_even_if_the_rest_of_its_head_is_garbage(database: Database, clock: ManualClock) -> None:
    async with answering(b"HTTP/1.1 204 None\r\n\x00\r\n\r\n") as url:
        tried = await attempt(database, clock, url)
    assert (tried.delivery.state, tried.attempt.answer.status) == (DeliveryState.DELIVERED, 204)
    assert (tried.backoff, tried.endpoint.failing_since) == (EndpointBackoff(), None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
async def test_3xx_fails_and_names_its_target(
    database: Database, clock: ManualClock, receiver: Receiver, status: int
) -> None:
    receiver.always(Reply(status, headers={"Location": "https://user:pw@elsewhere.example.org/a?token=1"}))
    tried = await attempt(database, clock, receiver.url())
    assert (tried.is_retried, tried.attempt.answer.outcome) == (True, Outcome.REDIRECT)
    assert "https://elsewhere.example.org/a;" in str(tried.attempt.answer.detail)
    assert "pw" not in str(tried.attempt.answer.detail)
    assert "token" not in str(tried.attempt.answer.detail)
    assert len(receiver.received) == 1
    assert tried.backoff == EndpointBackoff()


async def test_410_switches_the_endpoint_off_and_keeps_its_backlog(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    receiver.always(Reply(410))
    tried = await attempt(database, clock, receiver.url())
    assert (tried.attempt.answer.outcome, tried.attempt.next_attempt_at) == (Outcome.GONE, None)
    assert not tried.endpoint.enabled
    assert "410" in str(tried.endpoint.disabled_reason)
    assert (tried.delivery.state, tried.delivery.next_attempt_at) == (DeliveryState.PENDING, None)


async def test_410_exhausts_a_one_run_webhook(database: Database, clock: ManualClock, receiver: Receiver) -> None:
    receiver.always(Reply(410))
    run = await register(database)
    own = Endpoint(id=new_id("ep"), url=receiver.url(), source=EndpointSource.RUN, run_id=run.id)
    await database.write(lambda tx: endpoints.insert_run_endpoints(tx, [(own, Secret(new_secret()))]))
    await record(database, run, "failed")
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await start_due(deliverer)
    (delivery,) = await all_deliveries(database)
    assert delivery.state is DeliveryState.EXHAUSTED
    assert (await endpoint_now(database, own)).enabled


@pytest.mark.parametrize("as_date", [False, True])
@pytest.mark.parametrize(
    ("asked_s", "delivery_s", "pause_s"), [(3600, 3600, 3600), (10, 300, 10), (0, 300, 1), (10**9, 86400, 86400)]
)
async def test_429_pauses_the_endpoint_and_is_never_retried_earlier_than_planned(
    database: Database,
    clock: ManualClock,
    receiver: Receiver,
    asked_s: int,
    delivery_s: int,
    pause_s: int,
    as_date: bool,
) -> None:
    if as_date and asked_s > 86400:
        asked_s = 86400 * 365
    date = {"Date": format_datetime(START, usegmt=True)}
    asked = format_datetime(START + timedelta(seconds=asked_s), usegmt=True) if as_date else str(asked_s)
    receiver.always(Reply(429, headers={"Retry-After": asked, **date}))
    tried = await attempt(database, clock, receiver.url())
    assert tried.attempt.answer.outcome is Outcome.THROTTLED
    assert tried.delivery.next_attempt_at == START + timedelta(seconds=delivery_s)
    assert tried.backoff == EndpointBackoff(slowdowns=1, paused_until=START + timedelta(seconds=pause_s))


async def test_429_without_retry_after_pauses_for_a_second(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    receiver.always(Reply(429))
    tried = await attempt(database, clock, receiver.url())
    assert tried.is_retried
    assert tried.backoff == EndpointBackoff(slowdowns=1, paused_until=START + timedelta(seconds=1))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 418, 422, 451])
async def test_any_other_4xx_fails(database: Database, clock: ManualClock, receiver: Receiver, status: int) -> None:
    receiver.always(Reply(status))
    tried = await attempt(database, clock, receiver.url())
    assert (tried.is_retried, tried.result) == (True, (Outcome.CLIENT_ERROR, EndpointBackoff()))


async def test_503_with_retry_after_pauses_the_endpoint(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    receiver.always(Reply(503, headers={"Retry-After": "1200"}))
    tried = await attempt(database, clock, receiver.url())
    later = START + timedelta(minutes=20)
    assert (tried.attempt.answer.outcome, tried.delivery.next_attempt_at) == (Outcome.SERVER_ERROR, later)
    assert tried.backoff == EndpointBackoff(failures=1, slowdowns=1, paused_until=later)


@pytest.mark.parametrize("status", [502, 504])
async def test_502_and_504_pause_the_endpoint(
    database: Database, clock: ManualClock, receiver: Receiver, status: int
) -> None:
    receiver.always(Reply(status))
    tried = await attempt(database, clock, receiver.url())
    assert (tried.is_retried, tried.attempt.answer.outcome) == (True, Outcome.SERVER_ERROR)
    assert tried.backoff == EndpointBackoff(failures=1, slowdowns=1, paused_until=START + timedelta(seconds=1))


@pytest.mark.parametrize("status", [500, 501, 503, 505, 599])
async def test_any_other_5xx_counts_as_a_failure_in_a_row(
    database: Database, clock: ManualClock, receiver: Receiver, status: int
) -> None:
    receiver.always(Reply(status))
    tried = await attempt(database, clock, receiver.url())
    assert (tried.is_retried, tried.attempt.answer.outcome) == (True, Outcome.SERVER_ERROR)
    assert tried.backoff == EndpointBackoff(failures=1)


async def test_a_timeout_counts_as_a_failure_in_a_row(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    receiver.always(Reply(kind=ReplyKind.HANG))
    tried = await attempt(database, clock, receiver.url(), timeout_s=0.2)
    assert (tried.is_retried, tried.result) == (True, (Outcome.TIMEOUT, EndpointBackoff(failures=1)))


async def test_a_connection_that_is_refused_counts_as_a_failure_in_a_row(
    database: Database, clock: ManualClock
) -> None:
    tried = await attempt(database, clock, "http://127.0.0.1:1/hooks")
    assert (tried.is_retried_soon, tried.result) == (True, (Outcome.CONNECT, EndpointBackoff(failures=1)))


async def test_tls_that_fails_counts_as_a_failure_in_a_row(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    tried = await attempt(database, clock, receiver.url().replace("http://", "https://"))
    assert (tried.is_retried, tried.result) == (True, (Outcome.TLS, EndpointBackoff(failures=1)))


async def test_a_name_that_is_not_found_counts_as_a_failure_in_a_row(database: Database, clock: ManualClock) -> None:
    tried = await attempt(database, clock, "http://nowhere.invalid/hooks")
    assert (tried.is_retried_soon, tried.result) == (True, (Outcome.DNS, EndpointBackoff(failures=1)))


async def test_a_blocked_address_names_the_rule_and_is_not_dialled(database: Database, clock: ManualClock) -> None:
    tried = await attempt(database, clock, "http://169.254.169.254/latest/meta-data")
    assert (tried.is_retried, tried.attempt.answer.outcome) == (True, Outcome.BLOCKED_ADDRESS)
    assert "169.254.169.254" in str(tried.attempt.answer.detail)
    assert (tried.attempt.answer.peer, tried.backoff) == (None, EndpointBackoff())


@asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[str]:
    async with raw_server(says(data, then_closes=True)) as server:
        yield f"http://127.0.0.1:{server.port}/hooks"


async def test_a_head_that_is_too_large_is_a_class_of_its_own(database: Database, clock: ManualClock) -> None:
    async with answering(b"HTTP/1.1 503 Busy\r\n" + b"X-A: b\r\n" * 100_000) as url:
        tried = await attempt(database, clock, url)
    assert (tried.is_retried, tried.result) == (True, (Outcome.OVERSIZE, EndpointBackoff()))


async def test_what_is_not_http_is_a_class_of_its_own(database: Database, clock: ManualClock) -> None:
    async with answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url:
        tried = await attempt(database, clock, url)
    assert (tried.is_retried, tried.result) == (True, (Outcome.PROTOCOL, EndpointBackoff()))


async def test_a_delivery_that_cannot_be_signed_is_not_sent(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    endpoint = await add_endpoint(database, receiver.url())
    await database.write(lambda tx: tx.connection.exec_driver_sql("DELETE FROM endpoint_secrets"))
    await record(database, await register(database), "failed")
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await start_due(deliverer)
    (delivery,) = await all_deliveries(database)
    assert (delivery.state, delivery.last_outcome) == (DeliveryState.PENDING, Outcome.UNSIGNED)
    assert receiver.received == []
    assert (await endpoint_now(database, endpoint)).failing_since is None


async def test_a_stop_is_no_attempt(database: Database, clock: ManualClock, receiver: Receiver) -> None:
    receiver.always(Reply(kind=ReplyKind.HANG))
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await deliverer.run_pass()
        await receiver.wait_for(bool)
        await deliverer.drain(0.01)
    (delivery,) = await all_deliveries(database)
    assert (delivery.attempts, delivery.failures, await attempts_of(database, delivery)) == (0, 0, [])


# -- what it means for the rest of the backlog


async def test_what_waits_behind_a_pause_uses_up_no_attempts(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await add_endpoint(database, receiver.url())
    for number in range(20):
        await record(database, await register(database, str(number)), "failed")
    receiver.script(Reply(429, headers={"Retry-After": "600"}))
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock, slots_per_endpoint=1) as deliverer:
        assert await start_due(deliverer) == 600
        assert len(receiver.received) == 1
        await live_until(deliverer, clock, START + timedelta(seconds=599))
        assert len(receiver.received) == 1
        await live_until(deliverer, clock, START + timedelta(seconds=601))
    found = await all_deliveries(database)
    assert {d.state for d in found} == {DeliveryState.DELIVERED}
    assert sorted(d.attempts for d in found) == [1] * 19 + [2]


async def test_a_pause_outlives_the_daemon(database: Database, clock: ManualClock, receiver: Receiver) -> None:
    await add_endpoint(database, receiver.url())
    await record(database, await register(database), "failed")
    receiver.script(Reply(503, headers={"Retry-After": "600"}))
    async with open_deliverer(database, clock=clock) as deliverer:
        await start_due(deliverer)
    async with open_deliverer(database, clock=clock) as deliverer:
        assert await start_due(deliverer) == 600
    assert len(receiver.received) == 1
