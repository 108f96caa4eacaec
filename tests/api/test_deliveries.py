"""Deliveries over the API."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge import __version__
from bridge.domain.delivery import DeliveryState, Lane
from bridge.store import attempts, deliveries
from bridge.store.attempts import AttemptResult
from bridge.store.deliveries import due_endpoints
from bridge.store.transaction import Tx
from tests.support.api_bridge import NOW, Api
from tests.support.attempts import failed_attempt


async def fail_once(api: Api, state: DeliveryState = DeliveryState.PENDING) -> None:
    """One failed attempt of everything that is due."""

    def work(tx: Tx) -> None:
        again_at = tx.now + timedelta(minutes=5) if state is DeliveryState.PENDING else None
        for endpoint_id in due_endpoints(tx):
            claimed = deliveries.acquire_due(tx, node="n", endpoint_id=endpoint_id, limit=100)
            results = [AttemptResult(c.delivery, tx.now, failed_attempt(), state, again_at) for c in claimed]
            attempts.record_attempts(tx, node="n", results=results)

    await api.database.write(work)


async def test_one_delivery_comes_with_every_attempt_and_the_receivers_answer(api: Api) -> None:
    endpoint = await api.create_endpoint(events=["run.finished"])
    run = await api.register()
    await api.finish(run["id"])
    await fail_once(api)
    listed = (await api.call("GET", "/v1/deliveries")).body["data"][0]
    shown = (await api.call("GET", f"/v1/deliveries/{listed['id']}")).body
    assert (shown["endpoint_id"], shown["run_id"], shown["state"]) == (endpoint["id"], run["id"], "pending")
    assert (shown["attempt_count"], shown["failure_count"], shown["last_status"]) == (1, 1, 500)
    assert shown["next_attempt_at"] == "2026-01-15T10:35:00.000Z"
    assert shown["attempts"] == [
        {
            "number": 1,
            "at": "2026-01-15T10:30:00.000Z",
            "outcome": "server_error",
            "status": 500,
            "duration_ms": 31,
            "detail": "the receiver answered 500",
            "peer": "192.0.2.7:443",
            "phases": {"connect": 4, "first_byte": 30},
            "response": "no \ufffd thanks",
            "truncated": False,
            "manual": False,
            "next_attempt_at": "2026-01-15T10:35:00.000Z",
            "request_headers": {
                "webhook-id": shown["event_id"],
                "webhook-timestamp": "1768473000",
                "webhook-signature": "v1,****",
                "content-type": "application/json",
                "user-agent": f"runbridge/{__version__}",
            },
        }
    ]
    assert listed == {**shown, "attempts": [{**shown["attempts"][0], "response": None, "request_headers": None}]}


async def test_deliveries_are_filtered_and_paged_newest_first(api: Api) -> None:
    one = await api.create_endpoint(events=["run.finished"])
    await api.create_endpoint(events=["run.started", "run.finished"])
    run = await api.register("r-1")
    await api.finish(run["id"])
    await api.finish((await api.register("r-2"))["id"])
    event = (await api.call("GET", f"/v1/events?type=run.finished&run_id={run['id']}")).body["data"][0]
    for query, count in (
        ("", 6),
        (f"endpoint={one['id']}", 2),
        (f"endpoint_id={one['id']}", 2),
        (f"event={event['id']}", 2),
        (f"run={run['id']}", 3),
        (f"run={run['id']}&endpoint={one['id']}&state=pending", 1),
        ("state=delivered", 0),
    ):
        assert len((await api.call("GET", f"/v1/deliveries?{query}")).body["data"]) == count, query
    first = (await api.call("GET", "/v1/deliveries?limit=4")).body
    second = (await api.call("GET", f"/v1/deliveries?limit=4&cursor={first['next_cursor']}")).body
    ids = [delivery["id"] for delivery in first["data"] + second["data"]]
    assert ids == sorted(ids, reverse=True)
    assert (len(set(ids)), second["next_cursor"]) == (6, None)


async def test_a_retry_makes_it_due_now_whatever_became_of_it(api: Api) -> None:
    await api.create_endpoint(events=["run.finished"])
    await api.finish((await api.register())["id"])
    await fail_once(api, DeliveryState.EXHAUSTED)
    exhausted = (await api.call("GET", "/v1/deliveries?state=exhausted")).body["data"][0]
    assert exhausted["settled_at"] == "2026-01-15T10:30:00.000Z"
    reply = await api.call("POST", f"/v1/deliveries/{exhausted['id']}/retry")
    assert (reply.status, reply.body["state"], reply.body["manual"]) == (202, "pending", True)
    due = await api.database.read(due_endpoints)
    assert due[exhausted["endpoint_id"]].lanes == {Lane.AT_ONCE: NOW}


@pytest.mark.parametrize("how", ["discarded", "disabled", "in flight"])
async def test_a_retry_that_cannot_be_made_is_a_409(sqlite_api: Api, how: str) -> None:
    endpoint = await sqlite_api.create_endpoint(events=["run.finished"])
    await sqlite_api.finish((await sqlite_api.register())["id"])
    delivery = (await sqlite_api.call("GET", "/v1/deliveries")).body["data"][0]
    match how:
        case "discarded":
            await sqlite_api.call("DELETE", f"/v1/endpoints/{endpoint['id']}")
        case "disabled":
            await sqlite_api.call("POST", f"/v1/endpoints/{endpoint['id']}/disable")
        case _:
            await sqlite_api.database.write(
                lambda tx: deliveries.acquire_due(tx, node="n", endpoint_id=endpoint["id"], limit=1)
            )
    assert (await sqlite_api.call("POST", f"/v1/deliveries/{delivery['id']}/retry")).status == 409


async def test_a_delivery_that_is_not_there_is_a_404(sqlite_api: Api) -> None:
    assert (await sqlite_api.call("GET", "/v1/deliveries/dlv_none")).status == 404
    assert (await sqlite_api.call("POST", "/v1/deliveries/dlv_none/retry")).status == 404
