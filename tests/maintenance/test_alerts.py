"""Alerts are sent once per edge, grouped, with a remedy, and survive a crash."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.delivery.sender import Sender
from bridge.domain.addresses.policy import AddressPolicy, Trust
from bridge.domain.alert import AlertChannel, AlertEvent
from bridge.domain.connection import ConnectionHealth
from bridge.domain.delivery import DeliveryState, Outcome, PostResult
from bridge.domain.endpoint import EndpointSource
from bridge.domain.errors import InvalidInput, StoreUnavailable
from bridge.domain.secret import Secret
from bridge.maintenance import alerts
from bridge.maintenance.alert_channels import ChannelSender
from bridge.maintenance.alerts import Alerter
from bridge.runtime.metrics import Metrics
from bridge.store import endpoint_health
from bridge.store.attempts import AttemptResult, record_attempts
from bridge.store.connections import change_health
from bridge.store.database import Database
from bridge.store.deliveries import acquire_due, due_endpoints
from bridge.store.transaction import Tx
from tests.support.attempts import failed_attempt
from tests.support.manual_clock import START, ManualClock
from tests.support.posting import LOOPBACK
from tests.support.stub_server import StubRequest, StubResponse, StubServer, stub_server
from tests.support.watching import NODE, add_endpoint, open_database, record, register

ROOM = 10 * alerts.DISK_ROOM_BYTES


class Phone:
    """An ntfy server that may be down."""

    def __init__(self) -> None:
        self.is_down = False

    def respond(self, _request: StubRequest) -> StubResponse:
        return StubResponse(503 if self.is_down else 200)


class People:
    """An alerter with one channel, and what arrived there."""

    def __init__(
        self, database: Database, clock: ManualClock, server: StubServer, phone: Phone, sender: Sender
    ) -> None:
        self.database, self.clock, self.server, self.phone, self.sender = database, clock, server, phone, sender
        self.free = ROOM
        self.restart()

    def restart(self, **channel: Any) -> None:
        """A new process."""
        settings = {"kind": "ntfy", "url": Secret(f"{self.server.url}/ops"), **channel}
        send = ChannelSender(self.sender, AddressPolicy(Trust.CONFIG))
        self.alerter = Alerter(self.database, self.clock, send, Metrics(), lambda: self.free)
        self.alerter.use({"phone": AlertChannel.model_validate(settings)})

    async def told(self) -> list[str]:
        """Run a pass a minute later; returns the messages that arrived."""
        self.clock.advance(alerts.GATHER_S)
        before = len(self.server.requests)
        await self.alerter.run_pass()
        return [request.body.decode() for request in self.server.requests[before:]]

    async def fail(self, name: str, *, reason: str = "HTTP 401") -> None:
        await self.change(name, ConnectionHealth.FAILING, reason)

    async def change(self, name: str, health: ConnectionHealth, reason: str | None = None) -> None:
        work = lambda tx: change_health(tx, name, provider="dify", health=health, reason=reason)  # noqa: E731
        await self.database.write(work)


@pytest.fixture
def phone() -> Phone:
    return Phone()


@pytest.fixture
def server(phone: Phone) -> Iterator[StubServer]:
    with stub_server(phone.respond) as served:
        yield served


@pytest.fixture
async def people(database_url: str, server: StubServer, phone: Phone) -> AsyncIterator[People]:
    async with open_people(database_url, server, phone) as people:
        yield people


@asynccontextmanager
async def open_people(url: str, server: StubServer, phone: Phone) -> AsyncIterator[People]:
    clock, sender = ManualClock(START), Sender(LOOPBACK, timeout_s=60)
    async with open_database(url, clock) as database:
        people = People(database, clock, server, phone, sender)
        await people.alerter.run_pass()  # from now on
        yield people
    await sender.close()


async def test_a_connection_that_fails_is_reported_once_with_its_reason_and_what_to_do(people: People) -> None:
    await people.fail("dify-prod", reason="HTTP 401: the key\nwas refused.")
    (text,) = await people.told()
    assert "The connection dify-prod brings nothing readable: HTTP 401: the key was refused." in text
    assert "`runbridge connections check dify-prod`" in text
    assert people.server.requests[-1].headers["title"] == "runbridge: The connection dify-prod brings nothing readable"
    assert await people.told() == []
    await people.change("dify-prod", ConnectionHealth.OK)
    assert await people.told() == [], "only those who ask hear of a recovery"
    await people.fail("dify-prod")
    assert len(await people.told()) == 1


async def test_what_happens_within_a_minute_is_one_message(people: People) -> None:
    await people.fail("first")
    await people.told()
    for number in range(alerts.SHOWN_MAX + 2):
        await people.fail(f"c{number:02}")
    await people.alerter.run_pass()
    assert len(people.server.requests) == 1
    (text,) = await people.told()
    assert people.server.requests[-1].headers["title"] == f"runbridge: {alerts.SHOWN_MAX + 2} things need attention"
    assert text.count("brings nothing readable") == alerts.SHOWN_MAX
    assert "and 2 more" in text


async def test_a_connection_that_comes_and_goes_is_told_ever_more_rarely_and_once_a_message(people: People) -> None:
    """Otherwise a night of it is five hundred messages of twenty paragraphs."""
    people.restart(events=["connection.failing", "connection.recovered"])
    await people.alerter.run_pass()
    messages = []
    for minute in range(60):
        for reason in ("GET /runs/1: HTTP 401", "GET /runs/2: HTTP 401"):
            await people.fail("dify-prod", reason=reason)
            await people.change("dify-prod", ConnectionHealth.OK)
        messages += [(minute, text) for text in await people.told()]
    assert [minute for minute, _ in messages][:5] == [0, 1, 3, 7, 12], "minutes between them: 1, 2, 4, 5, 5, …"
    assert len(messages) <= 14
    assert all(text.count("brings nothing readable") == 1 for _, text in messages)
    assert "GET /runs/2: HTTP 401. (10 times)" in messages[-1][1]
    assert people.server.requests[-1].headers["title"] == "runbridge: 2 things need attention"
    await people.told()
    people.clock.advance(alerts.GATHER_MAX_S)
    await people.fail("other")
    await people.told()
    await people.fail("another")
    assert len(await people.told()) == 1, "after a rest it is a minute again"


def exhaust(tx: Tx) -> None:
    """Let every delivery that is due use up its last attempt."""
    for endpoint_id in due_endpoints(tx):
        claimed = acquire_due(tx, node=NODE, endpoint_id=endpoint_id, limit=10)
        results = [
            AttemptResult(each.delivery, tx.now, failed_attempt(), DeliveryState.EXHAUSTED, None) for each in claimed
        ]
        assert all(record_attempts(tx, node=NODE, results=results))


async def test_an_endpoint_that_is_switched_off_and_exhausted_deliveries_are_reported(people: People) -> None:
    gone = await add_endpoint(people.database)
    used_up = await add_endpoint(people.database)
    await add_endpoint(people.database, source=EndpointSource.RUN, run_id=(await register(people.database)).id)
    await record(people.database, await register(people.database, "b"), "succeeded")
    answer = PostResult(Outcome.GONE, 1, 410)
    await people.database.write(lambda tx: endpoint_health.apply_result(tx, gone.id, answer))
    people.clock.advance(1)
    await people.database.write(exhaust)
    (text,) = await people.told()
    assert f"The endpoint {gone.id} is switched off" in text
    assert f"`runbridge endpoints enable {gone.id} --replay-missed`" in text
    assert f"to {used_up.id} used up the retries." in text
    assert await people.told() == []


async def test_what_is_exhausted_after_the_clock_was_set_back_is_reported(people: People) -> None:
    await add_endpoint(people.database)
    for number, jump_s in enumerate([0.0, -3600.0]):
        people.clock.set_wall(jump_s)
        await record(people.database, await register(people.database, f"run-{number}"), "succeeded")
        people.clock.advance(1)
        await people.database.write(exhaust)
        assert len(await people.told()) == 1
        assert await people.told() == []


async def test_what_was_told_is_not_told_again_when_a_clock_that_was_set_back_comes_by_it(people: People) -> None:
    await add_endpoint(people.database)
    await record(people.database, await register(people.database), "succeeded")
    people.clock.advance(1)
    await people.database.write(exhaust)
    assert len(await people.told()) == 1
    people.clock.set_wall(-3600.0)
    people.alerter.rebase(-3600.0)
    assert await people.told() == []
    people.clock.advance(3600.0)
    assert await people.told() == []


async def test_a_channel_that_is_down_loses_nothing_and_says_so(people: People) -> None:
    people.phone.is_down = True
    await people.fail("dify-prod")
    await people.told()
    assert people.alerter.failures() == {"phone": "the receiver answered 503"}
    await people.fail("dify-test")
    people.phone.is_down = False
    people.restart()  # and what was not sent is sent after a crash
    (text,) = await people.told()
    assert text.index("dify-prod") < text.index("dify-test")
    assert people.alerter.failures() == {}


async def test_a_restart_does_not_send_again(people: People) -> None:
    await people.fail("dify-prod")
    assert len(await people.told()) == 1
    people.restart()
    assert await people.told() == []


async def test_a_full_disk_is_reported_once_until_there_is_room_again(people: People) -> None:
    people.free = alerts.DISK_FULL_BYTES - 1
    (text,) = await people.told()
    assert "Make room" in text
    people.free = alerts.DISK_FULL_BYTES + 1
    assert await people.told() == []
    people.free = ROOM
    assert await people.told() == []
    people.free = 0
    assert len(await people.told()) == 1


@pytest.mark.slow
async def test_a_full_disk_is_reported_although_the_database_cannot_be_read(
    sqlite_url: str, server: StubServer, phone: Phone
) -> None:
    async with open_people(sqlite_url, server, phone) as people:
        people.free = 0
        people.alerter.forget()
        await people.database.close()
        people.clock.advance(alerts.GATHER_S)
        with pytest.raises(StoreUnavailable):
            await people.alerter.run_pass()
    assert len(server.requests) == 1


async def test_a_channel_hears_only_of_what_it_names(people: People) -> None:
    people.restart(events=[AlertEvent.CONNECTION_RECOVERED])
    await people.fail("dify-prod")
    assert await people.told() == []
    await people.change("dify-prod", ConnectionHealth.OK)
    (text,) = await people.told()
    assert "answers again" in text


@pytest.mark.parametrize("kind", ["slack", "teams"])
async def test_webhooks_have_the_form_of_slack_and_of_teams(people: People, kind: str) -> None:
    people.restart(kind=kind)
    await people.fail("a<b>&c")
    (text,) = await people.told()
    body = json.loads(text)
    assert people.server.requests[-1].headers["content-type"] == "application/json"
    if kind == "slack":
        assert body.keys() == {"text"}
        assert "The connection a&lt;b&gt;&amp;c brings nothing readable" in body["text"]
    else:
        (attachment,) = body["attachments"]
        assert body["type"] == "message"
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        title, *lines = [block["text"] for block in attachment["content"]["body"]]
        assert title.startswith("runbridge: The connection a<b>&c")
        assert any("runbridge connections check" in line for line in lines)


async def test_the_guard_refuses_an_address_that_endpoints_may_not_have(people: People) -> None:
    people.restart(url=Secret("http://169.254.169.254/latest"))
    await people.fail("dify-prod")
    assert await people.told() == []
    assert "cloud metadata" in people.alerter.failures()["phone"]


async def test_ntfy_gets_its_token(people: People) -> None:
    people.restart(token=Secret("tk_abc"))
    await people.fail("dify-prod")
    await people.told()
    assert people.server.requests[-1].headers["authorization"] == "Bearer tk_abc"
    assert people.server.requests[-1].path == "/ops"


async def test_a_test_message_says_of_each_channel_what_became_of_it(people: People) -> None:
    """A test message leaves the cursor where it is: nothing is sent twice or missed because of it."""
    assert [(one.name, one.detail) for one in await people.alerter.test(None)] == [("phone", "the message was taken")]
    assert b"This channel works" in people.server.requests[-1].body
    people.phone.is_down = True
    [tried] = await people.alerter.test(["phone"])
    assert (tried.ok, tried.detail) == (False, "the receiver answered 503")
    assert people.alerter.failures() == {}
    sent = len(people.server.requests)
    with pytest.raises(InvalidInput, match="did you mean"):
        await people.alerter.test(["phone", "phon"])
    assert len(people.server.requests) == sent
