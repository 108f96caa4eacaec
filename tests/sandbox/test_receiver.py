"""The verifying receiver."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
import standardwebhooks
import svix

from bridge.domain.signing.hmac_v1 import new_secret, secret_key, signature_headers
from bridge.sandbox import Receiver, Reply, ReplyKind

BODY = json.dumps({"id": "evt_1", "type": "run.finished", "data": {"name": "é"}}, ensure_ascii=False)


def standard_headers(secret: str, body: str = BODY, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = standardwebhooks.Webhook(secret).sign("evt_1", at, body)
    return {"webhook-id": "evt_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def svix_headers(secret: str) -> dict[str, str]:
    at = datetime.now(UTC)
    signature = svix.Webhook(secret).sign("evt_1", at, BODY)
    return {"webhook-id": "evt_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def own_headers(secret: str) -> dict[str, str]:
    return signature_headers([secret_key(secret)], "evt_1", int(datetime.now(UTC).timestamp()), BODY.encode())


@pytest.mark.parametrize("headers", [standard_headers, svix_headers, own_headers])
async def test_what_a_library_signed_is_verified_and_kept_byte_for_byte(
    receiver: Receiver, client: aiohttp.ClientSession, headers: object
) -> None:
    secret = new_secret()
    receiver.add_secret(secret)
    assert callable(headers)
    answer = await client.post(receiver.url(), data=BODY.encode(), headers=headers(secret))
    [one] = receiver.received
    assert (answer.status, one.status, one.verified) == (204, 204, True)
    assert (one.body, one.id, one.type, one.path) == (BODY.encode(), "evt_1", "run.finished", "/hooks")


@pytest.mark.parametrize("tampered", ["body", "webhook-id", "webhook-timestamp", "webhook-signature", "secret", "age"])
async def test_whatever_was_tampered_with_is_refused(
    receiver: Receiver, client: aiohttp.ClientSession, tampered: str
) -> None:
    secret = new_secret()
    receiver.add_secret(secret)
    at = datetime.now(UTC) - timedelta(seconds=301 if tampered == "age" else 0)
    headers = standard_headers(new_secret() if tampered == "secret" else secret, at=at)
    match tampered:
        case "webhook-timestamp":
            headers[tampered] = str(int(headers[tampered]) + 1)
        case "webhook-id" | "webhook-signature":
            headers[tampered] = headers[tampered] + "x"
    body = BODY.replace("finished", "tampered") if tampered == "body" else BODY
    answer = await client.post(receiver.url(), data=body.encode(), headers=headers)
    assert (answer.status, receiver.received[0].verified) == (401, False)


async def test_while_a_secret_is_rotated_either_signature_will_do(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    old, new = new_secret(), new_secret()
    receiver.add_secret(new)
    stamp = int(datetime.now(UTC).timestamp())
    headers = signature_headers([secret_key(old), secret_key(new)], "evt_1", stamp, BODY.encode())
    assert (await client.post(receiver.url(), data=BODY.encode(), headers=headers)).status == 204


async def test_a_secret_of_one_path_does_not_open_another(receiver: Receiver, client: aiohttp.ClientSession) -> None:
    one, other = new_secret(), new_secret()
    receiver.add_secret(one, path="/one")
    receiver.add_secret(other, path="/other")
    paths = ("/one", "/other")
    statuses = [
        (await client.post(receiver.url(path), data=BODY.encode(), headers=standard_headers(one))).status
        for path in paths
    ]
    assert statuses == [204, 401]


async def test_a_malformed_secret_is_refused(receiver: Receiver) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        receiver.add_secret("hunter2")


async def test_the_script_is_answered_in_order_and_then_it_is_as_before(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    receiver.script(
        Reply(500, body="no"), Reply(429, headers={"Retry-After": "3"}), Reply(302, headers={"Location": "/x"})
    )
    answers = [await client.post(receiver.url(), data=b"{}", allow_redirects=False) for _ in range(4)]
    assert [answer.status for answer in answers] == [500, 429, 302, 204]
    assert (await answers[0].text(), answers[1].headers["Retry-After"]) == ("no", "3")
    assert answers[2].headers["Location"] == "/x"


async def test_a_path_can_have_its_own_script_and_standing_answer(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    receiver.script(Reply(500), path="/a")
    receiver.always(Reply(410), path="/a")
    paths = ("/a", "/a", "/b")
    assert [(await client.post(receiver.url(path), data=b"{}")).status for path in paths] == [500, 410, 204]
    receiver.always(None, path="/a")
    assert (await client.post(receiver.url("/a"), data=b"{}")).status == 204


async def test_every_nth_request_can_fail(receiver: Receiver, client: aiohttp.ClientSession) -> None:
    receiver.every(3, Reply(503))
    statuses = [(await client.post(receiver.url(), data=b"{}")).status for _ in range(6)]
    assert statuses == [204, 204, 503, 204, 204, 503]


async def test_a_dropped_connection_is_recorded_with_no_answer(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    receiver.script(Reply(kind=ReplyKind.DROP))
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post(receiver.url(), data=b"{}")
    assert receiver.received[0].status is None


async def test_a_hanging_request_is_let_go_of_by_reset(receiver: Receiver, client: aiohttp.ClientSession) -> None:
    receiver.script(Reply(kind=ReplyKind.HANG))
    asked = asyncio.create_task(client.post(receiver.url(), data=b"{}"))
    await receiver.wait_for(lambda received: len(received) == 1)
    assert not asked.done()
    receiver.reset()
    assert (await asked).status == 503


async def test_a_delayed_answer_comes_after_its_delay_but_the_arrival_counts_at_once(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    receiver.script(Reply(202, delay_s=0.01), Reply(delay_s=3600))
    assert (await client.post(receiver.url(), data=b"{}")).status == 202
    asked = asyncio.create_task(client.post(receiver.url(), data=b"{}"))
    await receiver.wait_for(lambda received: len(received) == 2)
    assert not asked.done()
    asked.cancel()


async def test_waiting_ends_with_the_arrival_that_fulfils_the_condition(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    waiting = asyncio.create_task(receiver.wait_for(lambda received: len(received) >= 2))
    await client.post(receiver.url(), data=b"{}")
    assert not waiting.done()
    await client.post(receiver.url(), data=b"[]")
    assert [one.body for one in await waiting] == [b"{}", b"[]"]


async def test_waiting_in_vain_shows_what_there_was(receiver: Receiver, client: aiohttp.ClientSession) -> None:
    await client.post(receiver.url(), data=BODY.encode())
    with pytest.raises(TimeoutError, match=r"1 received, last: run\.finished"):
        await receiver.wait_for(lambda received: len(received) == 2, timeout_s=0.05)


async def test_over_http_the_receiver_can_be_scripted_read_and_reset(
    receiver: Receiver, client: aiohttp.ClientSession
) -> None:
    secret = new_secret()
    assert (await client.post(receiver.url("/_secrets"), json={"secret": secret})).status == 204
    script = {"replies": [{"status": 500}], "every": {"nth": 2, "reply": {"status": 503}}, "always": {"status": 202}}
    assert (await client.post(receiver.url("/_script"), json=script)).status == 204
    sent = [await client.post(receiver.url(), data=BODY.encode(), headers=standard_headers(secret)) for _ in range(3)]
    assert [answer.status for answer in sent] == [500, 503, 202]
    shown = await (await client.get(receiver.url("/_received?skip=2&path=/hooks"))).json()
    assert (shown["count"], shown["data"][0]["verified"], shown["data"][0]["body"]) == (3, True, BODY)
    await client.post(receiver.url("/_reset"))
    assert (await (await client.get(receiver.url("/_received"))).json())["count"] == 0


@pytest.mark.parametrize(("path", "body"), [("/_script", {"reply": 1}), ("/_secrets", {"secret": "x"})])
async def test_over_http_a_wrong_body_is_refused_with_the_reason(
    receiver: Receiver, client: aiohttp.ClientSession, path: str, body: dict[str, object]
) -> None:
    answer = await client.post(receiver.url(path), json=body)
    assert (answer.status, bool((await answer.json())["error"])) == (400, True)
