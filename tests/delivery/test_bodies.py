"""Other bodies and signatures that an endpoint may ask for, verified by other people's code."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
import svix
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bridge.domain.endpoint import EndpointSource
from bridge.domain.secret import Secret
from bridge.domain.signing.ed25519_v1a import new_signing_key
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.sandbox import Received, Receiver, Reply
from bridge.store import deliveries, endpoints, events
from bridge.store.database import Database
from tests.support.delivering import IN_FIVE_MINUTES, all_deliveries, live_until, open_deliverer, start_due
from tests.support.manual_clock import ManualClock
from tests.support.verify_v1a import verify_v1a
from tests.support.watching import add_endpoint, record, register

V1A = ("v1", "v1a")


@pytest.fixture
def clock() -> ManualClock:
    """Now, because the official libraries hold timestamps against the machine's clock."""
    return ManualClock(datetime.now(UTC))


async def finish_run(database: Database, name: str = "abc") -> None:
    await record(database, await register(database, name, metadata={"n": 1}), "succeeded", output={"text": "é" * 50})


async def deliver(database: Database, clock: ManualClock) -> None:
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await start_due(deliverer)


async def keys_of(database: Database, endpoint_id: str) -> list[str]:
    return (await database.read(lambda tx: endpoints.public_keys(tx, [endpoint_id]))).get(endpoint_id, [])


def entries(arrived: Received, version: str) -> list[str]:
    return [e for e in arrived.headers["webhook-signature"].split(" ") if e.startswith(f"{version},")]


def verifies(public: str, arrived: Received) -> bool:
    return verify_v1a(public, arrived.headers, arrived.body)


# -- bodies


@pytest.mark.parametrize(
    ("payload", "format_", "content_type"),
    [
        ("thin", "standard", "application/json"),
        ("full", "cloudevents", "application/cloudevents+json"),
        ("thin", "cloudevents", "application/cloudevents+json"),
    ],
)
async def test_another_body_is_signed_as_sent_and_keeps_the_id(
    database: Database, clock: ManualClock, receiver: Receiver, payload: str, format_: str, content_type: str
) -> None:
    secret = new_secret()
    await add_endpoint(database, receiver.url("/own"), secret=secret, payload=payload, format=format_)
    await add_endpoint(database, receiver.url("/full"), secret=secret)
    await finish_run(database)
    await deliver(database, clock)
    own, full = sorted(receiver.received, key=lambda one: one.path == "/full")
    for arrived in (own, full):
        standardwebhooks.Webhook(secret).verify(arrived.body, arrived.headers)
        svix.Webhook(secret).verify(arrived.body, arrived.headers)
    assert own.id == full.id == own.event["id"] == full.event["id"]
    assert own.headers["content-type"] == content_type
    assert full.headers["content-type"] == "application/json"
    assert (json.dumps("é" * 5, ensure_ascii=False)[1:-1] in own.body.decode()) == (payload == "full")


async def test_every_attempt_and_replay_sends_the_bytes_made_at_first(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    """Also after the endpoint asked for something else: a receiver that keeps bytes by id sees one message."""
    receiver.script(Reply(500))
    endpoint = await add_endpoint(database, receiver.url(), payload="thin", format="cloudevents")
    await finish_run(database)
    async with open_deliverer(database, schedule=IN_FIVE_MINUTES, clock=clock) as deliverer:
        await start_due(deliverer)
        await database.write(
            lambda tx: endpoints.update_endpoint(
                tx, endpoint.model_copy(update={"payload": "full", "format": "standard"})
            )
        )
        await live_until(deliverer, clock, clock.now() + timedelta(minutes=6))
        (delivery,) = await all_deliveries(database)
        await database.write(lambda tx: deliveries.retry_now(tx, [delivery.id]))
        await start_due(deliverer)
        await finish_run(database, "next")
        await start_due(deliverer)
    first, second, third, next_ = receiver.received
    assert first.body == second.body == third.body
    assert {one.headers["content-type"] for one in (first, second, third)} == {"application/cloudevents+json"}
    assert "specversion" not in next_.event
    assert next_.headers["content-type"] == "application/json"


async def test_a_filter_sees_the_whole_event_whatever_is_sent(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await add_endpoint(database, receiver.url(), payload="thin", filter="data.run.metadata.n == `1`")
    await finish_run(database)
    await deliver(database, clock)
    assert len(receiver.received) == 1


async def test_an_event_over_the_cap_names_the_path_where_the_output_is_whole(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    await add_endpoint(database, receiver.url())
    run = await register(database)
    await record(database, run, "succeeded", output={"text": "x" * 300_000})
    await finish_run(database, "small")
    await deliver(database, clock)
    large, small = sorted(receiver.received, key=lambda one: one.event["data"]["run"]["provider_run_id"])
    shown = large.event["data"]["run"]
    assert len(large.body) < 256 * 1024
    assert (shown["output"], shown["output_truncated"], shown["output_url"]) == (None, True, f"/v1/runs/{run.id}")
    assert not small.event["data"]["run"]["output_truncated"]
    assert "output_url" not in small.event["data"]["run"]


async def test_a_full_endpoint_stores_no_second_copy_of_the_body(database: Database, receiver: Receiver) -> None:
    await add_endpoint(database, receiver.url())
    await add_endpoint(database, receiver.url(), payload="thin")
    await finish_run(database)
    stored = await database.read(
        lambda tx: tx.connection.exec_driver_sql("SELECT body FROM deliveries").scalars().all()
    )
    assert sorted(body is None for body in stored) == [False, True]
    listed = await database.read(lambda tx: events.list_feed(tx, after=0, limit=9))
    assert len(listed) == 1


# -- signatures


async def test_v1a_stands_beside_v1_and_both_verify(database: Database, clock: ManualClock, receiver: Receiver) -> None:
    secret = new_secret()
    endpoint = await add_endpoint(database, receiver.url(), secret=secret, signature=V1A)
    await finish_run(database)
    await deliver(database, clock)
    (arrived,) = receiver.received
    standardwebhooks.Webhook(secret).verify(arrived.body, arrived.headers)
    svix.Webhook(secret).verify(arrived.body, arrived.headers)
    (public,) = await keys_of(database, endpoint.id)
    (entry,) = entries(arrived, "v1a")
    signed = f"{arrived.id}.{arrived.headers['webhook-timestamp']}.".encode() + arrived.body
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    key.verify(base64.b64decode(entry.removeprefix("v1a,")), signed)
    assert verifies(public, arrived)
    assert entry.count(",") == 1, "some libraries raise at an entry with two commas"


async def test_each_endpoint_has_a_key_of_its_own(database: Database, receiver: Receiver) -> None:
    ids = [(await add_endpoint(database, receiver.url(), signature=V1A)).id for _ in range(3)]
    keys = {(await keys_of(database, endpoint_id))[0] for endpoint_id in ids}
    assert len(keys) == 3
    plain = await add_endpoint(database, receiver.url())
    assert await keys_of(database, plain.id) == []


async def test_v1a_can_be_asked_for_later_and_given_up_again(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    endpoint = await add_endpoint(database, receiver.url())
    for signature in (V1A, ("v1",)):
        changed = endpoint.model_copy(update={"signature": signature})
        await database.write(lambda tx, changed=changed: endpoints.update_endpoint(tx, changed))
        await finish_run(database, str(len(signature)))
        await deliver(database, clock)
    assert [len(entries(one, "v1a")) for one in receiver.received] == [1, 0]
    assert [len(entries(one, "v1")) for one in receiver.received] == [1, 1]
    assert await keys_of(database, endpoint.id) == []


async def test_an_endpoint_of_the_file_keeps_its_v1a_key_over_restarts(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    from bridge.domain.endpoint import Endpoint

    secret = new_secret()
    own = Endpoint(id="my-app", url=receiver.url(), source=EndpointSource.CONFIG, signature=V1A)
    keys = []
    for _ in range(2):
        await database.write(lambda tx: endpoints.sync_file_endpoints(tx, [own]))
        keys += await keys_of(database, "my-app")
    assert len(keys) == 2
    assert keys[0] == keys[1]
    await finish_run(database)
    async with open_deliverer(database, clock=clock, file_secrets={"my-app": Secret(secret)}) as deliverer:
        await start_due(deliverer)
    (arrived,) = receiver.received
    standardwebhooks.Webhook(secret).verify(arrived.body, arrived.headers)
    assert verifies(keys[0], arrived)


async def test_during_the_overlap_old_and_new_verify_and_after_it_only_the_new(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    old, new = new_secret(), new_secret()
    endpoint = await add_endpoint(database, receiver.url(), secret=old, signature=V1A)
    (old_public,) = await keys_of(database, endpoint.id)
    until = clock.now() + timedelta(seconds=60)

    def rotate(tx) -> None:
        endpoints.rotate_secret(tx, endpoint.id, Secret(new), old_until=until)
        endpoints.rotate_secret(tx, endpoint.id, Secret(new_signing_key()), old_until=until, kind="v1a")

    await database.write(rotate)
    new_public = (await keys_of(database, endpoint.id))[0]
    await finish_run(database, "during")
    await deliver(database, clock)
    clock.advance(60)
    await finish_run(database, "after")
    await deliver(database, clock)
    during, after = receiver.received
    assert [len(entries(one, v)) for one in (during, after) for v in ("v1", "v1a")] == [2, 2, 1, 1]
    for secret in (old, new):
        standardwebhooks.Webhook(secret).verify(during.body, during.headers)
    standardwebhooks.Webhook(new).verify(after.body, after.headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(old).verify(after.body, after.headers)
    assert verifies(old_public, during)
    assert verifies(new_public, during)
    assert verifies(new_public, after)
    assert not verifies(old_public, after)
    assert await keys_of(database, endpoint.id) == [new_public]


async def test_a_second_rotation_cuts_no_earlier_overlap_short(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    """A receiver that was promised a day to change over has that day; only a leak ends it."""
    first, second, third, fourth = (new_secret() for _ in range(4))
    endpoint = await add_endpoint(database, receiver.url(), secret=first)

    async def rotate(secret: str, overlap_s: float) -> list[str]:
        until = clock.now() + timedelta(seconds=overlap_s)
        await database.write(lambda tx: endpoints.rotate_secret(tx, endpoint.id, Secret(secret), old_until=until))
        return await signing()

    async def signing() -> list[str]:
        live = await database.read(lambda tx: endpoints.live_secrets(tx, [endpoint.id]))
        return [each.secret.reveal() for each in live[endpoint.id]]

    assert await rotate(second, 3600) == [second, first]
    assert await rotate(third, 60) == [third, second, first]
    clock.advance(60)
    assert await signing() == [third, first]
    assert await rotate(fourth, 0) == [fourth]


async def test_an_overlap_of_nothing_ends_the_old_secret_at_once(
    database: Database, clock: ManualClock, receiver: Receiver
) -> None:
    endpoint = await add_endpoint(database, receiver.url())
    await database.write(lambda tx: endpoints.rotate_secret(tx, endpoint.id, Secret(new_secret()), old_until=tx.now))
    await finish_run(database)
    await deliver(database, clock)
    assert [len(entries(one, "v1")) for one in receiver.received] == [1]
