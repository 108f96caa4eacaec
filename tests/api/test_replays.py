"""Replays over the API: what a selection holds, what is answered at once, and how far it is."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from bridge.delivery.replayer import Replayer
from bridge.domain.delivery import DeliveryState
from bridge.domain.event import EventType
from bridge.domain.run import RunStatus
from bridge.store import attempts, deliveries, endpoints, events
from bridge.store.attempts import AttemptResult
from bridge.store.deliveries import due_endpoints
from bridge.store.transaction import Tx
from tests.support.api_bridge import NOW, Api
from tests.support.attempts import failed_attempt


async def settle_deliveries(api: Api, state: DeliveryState) -> None:
    """Let every due delivery end so."""

    def work(tx: Tx) -> None:
        for endpoint_id in due_endpoints(tx):
            claimed = deliveries.acquire_due(tx, node="n", endpoint_id=endpoint_id, limit=1000)
            results = [AttemptResult(c.delivery, tx.now, failed_attempt(), state, None) for c in claimed]
            attempts.record_attempts(tx, node="n", results=results)

    await api.database.write(work)


async def count(api: Api, endpoint_id: str, **more: object) -> int:
    """The count of a dry run."""
    body = {"since": "2026-01-15T00:00:00Z", "dry_run": True, **more}
    reply = await api.call("POST", f"/v1/endpoints/{endpoint_id}/replay", body)
    assert reply.status == 200
    number = reply.body["count"]
    assert isinstance(number, int)
    return number


async def replay(api: Api, endpoint_id: str, **more: object) -> tuple[int, int]:
    """How many a replay selected, and how many it made due by its end."""
    body = {"since": "2026-01-15T00:00:00Z", "rate": 1000, **more}
    reply = await api.call("POST", f"/v1/endpoints/{endpoint_id}/replay", body)
    assert (reply.status, reply.body["state"], reply.body["replayed"]) == (202, "running", 0)
    await drain(api)
    done = await api.call("GET", f"/v1/replays/{reply.body['id']}")
    assert (done.status, done.body["state"]) == (200, "done")
    return done.body["count"], done.body["replayed"]


async def drain(api: Api) -> None:
    """Let the replayer work until nothing is left."""
    replayer = Replayer(database=api.database, clock=api.clock)
    while (rest_s := await replayer.run_pass()) != math.inf:
        api.clock.advance(rest_s)


async def test_a_replay_sends_what_was_missed_before_the_endpoint_was_added(api: Api) -> None:
    run = await api.register()
    await api.finish(run["id"])
    made = await api.create_endpoint()
    assert await count(api, made["id"], status="missed") == 2  # not run.progressed
    assert await replay(api, made["id"], status="missed") == (2, 2)
    assert await replay(api, made["id"], status="missed") == (0, 0)
    due = (await api.call("GET", f"/v1/deliveries?endpoint={made['id']}")).body["data"]
    assert {(d["event_type"], d["manual"]) for d in due} == {("run.started", True), ("run.finished", True)}


async def test_a_replay_makes_what_failed_due_again_with_the_same_ids_and_the_whole_schedule(api: Api) -> None:
    made = await api.create_endpoint(events=["run.finished"])
    await api.finish((await api.register())["id"])
    before = (await api.call("GET", "/v1/deliveries")).body["data"]
    await settle_deliveries(api, DeliveryState.EXHAUSTED)
    for status in ("delivered", "pending"):
        assert await replay(api, made["id"], status=status) == (0, 0)
    assert [await count(api, made["id"], status=s) for s in ("failed", "missed", "exhausted", "all")] == [1, 1, 1, 1]
    assert await replay(api, made["id"], status="failed") == (1, 1)
    again = (await api.call("GET", "/v1/deliveries")).body["data"]
    assert [(d["id"], d["event_id"]) for d in again] == [(d["id"], d["event_id"]) for d in before]
    assert (again[0]["state"], again[0]["manual"], again[0]["failure_count"]) == ("pending", True, 0)


async def test_what_was_delivered_is_not_missed_and_can_be_sent_again(api: Api) -> None:
    made = await api.create_endpoint(events=["run.finished"])
    await api.finish((await api.register())["id"])
    await settle_deliveries(api, DeliveryState.DELIVERED)
    assert await count(api, made["id"], status="missed") == 0
    assert await replay(api, made["id"], status="delivered") == (1, 1)
    (again,) = (await api.call("GET", "/v1/deliveries?state=pending")).body["data"]
    assert (again["settled_at"], again["manual"]) == (None, True)


async def test_a_replay_keeps_to_its_window_and_types(api: Api) -> None:
    made = await api.create_endpoint()
    first = await api.register("r-1")
    await api.see(first["id"], RunStatus.WAITING)
    api.clock.advance(3600)
    await api.finish(first["id"])
    middle = (NOW + timedelta(minutes=30)).isoformat()
    assert await count(api, made["id"]) == 4
    assert await count(api, made["id"], until=middle) == 1
    assert await count(api, made["id"], since=middle) == 3
    assert await count(api, made["id"], types=["run.finished", "run.waiting"]) == 2


async def test_a_replay_heeds_the_filter_and_leaves_the_pings_of_others_out(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.store.replays.PAGE", 1)
    await api.call("POST", f"/v1/endpoints/{(await api.create_endpoint())['id']}/ping")
    await api.finish((await api.register())["id"])
    made = await api.create_endpoint(filter="data.run.status == 'succeeded'")
    assert await count(api, made["id"]) == 1
    assert await replay(api, made["id"]) == (1, 1)
    unfiltered = await api.create_endpoint()
    assert await replay(api, unfiltered["id"]) == (2, 2)


@pytest.mark.parametrize("event_type", [EventType.ENDPOINT_FAILING, EventType.ENDPOINT_DISABLED])
async def test_an_endpoint_is_not_replayed_the_events_about_itself(api: Api, event_type: EventType) -> None:
    first, second = await api.create_endpoint(), await api.create_endpoint(description='beside "endpoint"')
    await api.database.write(lambda tx: endpoints.disable_endpoint(tx, first["id"], "test"))
    for made in (first, second):
        await api.database.write(lambda tx, made=made: tell(tx, event_type, made["id"]))
    await api.database.write(lambda tx: endpoints.enable_endpoint(tx, first["id"]))
    assert await count(api, first["id"], status="missed") == 1
    assert await replay(api, first["id"], status="missed") == (1, 1)
    (due,) = (await api.call("GET", f"/v1/deliveries?endpoint={first['id']}")).body["data"]
    told = await api.call("GET", f"/v1/events/{due['event_id']}")
    assert told.body["data"]["endpoint"]["id"] == second["id"]


def tell(tx: Tx, event_type: EventType, endpoint_id: str) -> None:
    endpoint = endpoints.get_endpoint(tx, endpoint_id)
    assert endpoint is not None
    events.record_endpoint_event(tx, event_type, endpoint, "it does not answer")


async def test_a_one_run_webhook_is_replayed_the_events_of_its_run_only(api: Api) -> None:
    await api.finish((await api.register("other"))["id"])
    run = await api.register("own")
    await api.finish(run["id"])
    added = await api.register(
        "own", webhook={"url": "https://a.example.org", "events": ["run.started", "run.finished"]}
    )
    assert await replay(api, added["webhook"]["id"], status="missed") == (1, 1)


async def test_what_is_recorded_after_a_replay_began_is_not_part_of_it(sqlite_api: Api) -> None:
    """It is sent anyway; and on a busy bridge a replay would never end."""
    made = await sqlite_api.create_endpoint()
    await sqlite_api.finish((await sqlite_api.register("r-1"))["id"])
    begun = await sqlite_api.call("POST", f"/v1/endpoints/{made['id']}/replay", {"since": "2026-01-15T00:00:00Z"})
    await sqlite_api.finish((await sqlite_api.register("r-2"))["id"])
    await drain(sqlite_api)
    assert (await sqlite_api.call("GET", f"/v1/replays/{begun.body['id']}")).body["replayed"] == 2


async def test_replays_are_listed_newest_first_and_can_be_cancelled_once(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint()
    path = f"/v1/endpoints/{made['id']}/replay"
    given = {"since": "2026-01-15T00:00:00Z", "until": "2026-01-16T00:00:00Z", "types": ["run.finished"], "rate": 0.5}
    ids = [(await sqlite_api.call("POST", path, given)).body["id"] for _ in range(3)]
    first = await sqlite_api.call("GET", "/v1/replays?limit=2")
    second = await sqlite_api.call("GET", f"/v1/replays?limit=2&cursor={first.body['next_cursor']}")
    assert [r["id"] for r in first.body["data"] + second.body["data"]] == ids[::-1]
    shown = first.body["data"][0]
    assert {key: shown[key] for key in ("since", "until", "types", "status", "rate", "endpoint_id")} == {
        "since": "2026-01-15T00:00:00.000Z",
        "until": "2026-01-16T00:00:00.000Z",
        "types": ["run.finished"],
        "status": "all",
        "rate": 0.5,
        "endpoint_id": made["id"],
    }
    cancelled = await sqlite_api.call("POST", f"/v1/replays/{ids[0]}/cancel")
    assert (cancelled.status, cancelled.body["state"]) == (200, "cancelled")
    assert cancelled.body["finished_at"] is not None
    assert (await sqlite_api.call("POST", f"/v1/replays/{ids[0]}/cancel")).status == 409
    assert (await sqlite_api.call("GET", "/v1/replays/rpl_none")).status == 404


@pytest.mark.parametrize("rate", [0, 0.01, 1001, "50"])
def test_a_rate_must_be_one_that_makes_sense(rate: object) -> None:
    from pydantic import ValidationError

    from bridge.api.request_models import EndpointReplayBody

    with pytest.raises(ValidationError):
        EndpointReplayBody.model_validate({"since": "2026-01-15T00:00:00Z", "rate": rate})


async def test_the_same_idempotency_key_starts_one_replay(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint()
    path, key = f"/v1/endpoints/{made['id']}/replay", {"Idempotency-Key": "k-1"}
    first = await sqlite_api.call("POST", path, {"since": "2026-01-15T00:00:00Z"}, headers=key)
    again = await sqlite_api.call("POST", path, {"since": "2026-01-15T00:00:00Z"}, headers=key)
    assert first.body == again.body
    assert len((await sqlite_api.call("GET", "/v1/replays")).body["data"]) == 1
