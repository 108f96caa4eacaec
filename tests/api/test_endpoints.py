"""Endpoints over the API."""

from __future__ import annotations

import pytest

from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import endpoints
from tests.support.api_bridge import Api


async def add_file_endpoint(api: Api) -> None:
    """An endpoint of the operator's file."""
    endpoint = Endpoint(id="my-app", url="http://127.0.0.1:9/hooks", source=EndpointSource.CONFIG)
    await api.database.write(lambda tx: endpoints.sync_file_endpoints(tx, [endpoint]))


async def test_a_new_endpoint_shows_its_secret_once(api: Api) -> None:
    made = await api.create_endpoint(description="the shop", events=["run.finished", "run.finished"])
    assert made["secret"].startswith("whsec_")
    assert (made["source"], made["events"], made["enabled"]) == ("api", ["run.finished"], True)
    shown = await api.call("GET", f"/v1/endpoints/{made['id']}")
    assert shown.body == {key: value for key, value in made.items() if key != "secret"}
    assert made["secret"] not in (await api.call("GET", "/v1/endpoints")).content.decode()


async def test_a_given_secret_is_taken(door: Api) -> None:
    secret = new_secret()
    assert (await door.create_endpoint(secret=secret))["secret"] == secret


async def test_header_values_are_shown_at_creation_only(door: Api) -> None:
    """They often hold a token of the receiver."""
    made = await door.create_endpoint(headers={"X-Key": "canary"})
    assert made["headers"] == {"X-Key": "canary"}
    shown = await door.call("GET", f"/v1/endpoints/{made['id']}")
    assert shown.body["headers"] == {"X-Key": "****"}


async def test_endpoints_are_listed_page_by_page_without_those_of_single_runs(api: Api) -> None:
    ids = [(await api.create_endpoint())["id"] for _ in range(3)]
    run = await api.register(webhook={"url": "https://app.example.org/x"})
    first = await api.call("GET", "/v1/endpoints?limit=2")
    second = await api.call("GET", f"/v1/endpoints?limit=2&cursor={first.body['next_cursor']}")
    assert [e["id"] for e in first.body["data"] + second.body["data"]] == ids
    assert second.body["next_cursor"] is None
    everything = await api.call("GET", "/v1/endpoints?one_run=true")
    assert [e["id"] for e in everything.body["data"]] == [*ids, run["webhook"]["id"]]


async def test_a_change_sets_what_is_given_and_leaves_the_rest(api: Api) -> None:
    made = await api.create_endpoint(description="old", filter="data.run", headers={"X-A": "1"})
    path = f"/v1/endpoints/{made['id']}"
    changed = await api.call(
        "PATCH", path, {"url": "https://new.example.org/", "events": ["run.waiting"], "filter": None}
    )
    assert changed.status == 200
    assert (changed.body["url"], changed.body["events"]) == ("https://new.example.org/", ["run.waiting"])
    assert (changed.body["filter"], changed.body["description"]) == (None, "old")
    again = await api.call("PATCH", path, {"events": None, "ordered": True, "payload": "thin"})
    assert (again.body["events"], again.body["ordered"], again.body["payload"]) == (None, True, "thin")


@pytest.mark.parametrize("body", [{"url": None}, {"secret": "x"}, {"url": "http://10.0.0.1"}, {"enabled": False}])
async def test_a_change_is_checked_like_a_creation(door: Api, body: dict[str, object]) -> None:
    made = await door.create_endpoint()
    assert list((await door.call("PATCH", f"/v1/endpoints/{made['id']}", body)).fields) == list(body)


async def test_a_removed_endpoint_is_gone_and_its_backlog_discarded(api: Api) -> None:
    made = await api.create_endpoint()
    await api.finish((await api.register())["id"])
    assert (await api.call("DELETE", f"/v1/endpoints/{made['id']}")).status == 204
    assert (await api.call("GET", f"/v1/endpoints/{made['id']}")).status == 404
    assert (await api.call("DELETE", f"/v1/endpoints/{made['id']}")).status == 404
    states = {d["state"] for d in (await api.call("GET", "/v1/deliveries")).body["data"]}
    assert states == {"discarded"}


async def test_an_endpoint_of_the_file_is_changed_in_the_file(api: Api) -> None:
    await add_file_endpoint(api)
    assert (await api.call("GET", "/v1/endpoints/my-app")).body["source"] == "config"
    for method, path in (
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/rotate-secret"),
        ("POST", "/enable"),
        ("POST", "/disable"),
    ):
        reply = await api.call(method, f"/v1/endpoints/my-app{path}", None if method == "DELETE" else {})
        assert (reply.status, "configuration file" in reply.body["detail"]) == (409, True), path
    assert (await api.call("POST", "/v1/endpoints/my-app/ping")).status == 202
    since = {"since": "2026-01-01T00:00:00Z"}
    assert (await api.call("POST", "/v1/endpoints/my-app/replay", since)).status == 202


async def test_a_rotated_secret_signs_beside_the_old_one_for_the_overlap(api: Api) -> None:
    made = await api.create_endpoint()
    reply = await api.call("POST", f"/v1/endpoints/{made['id']}/rotate-secret", {"overlap": "2h"})
    assert (reply.status, reply.body["old_until"]) == (200, "2026-01-15T12:30:00.000Z")

    async def live() -> list[str]:
        found = await api.database.read(lambda tx: endpoints.live_secrets(tx, [made["id"]]))
        return [live.secret.reveal() for live in found[made["id"]]]

    assert await live() == [reply.body["secret"], made["secret"]]
    api.clock.advance(2 * 3600)
    assert await live() == [reply.body["secret"]]


async def test_rotation_without_body_overlaps_for_a_day_and_without_overlap_not_at_all(door: Api) -> None:
    made = await door.create_endpoint()
    path = f"/v1/endpoints/{made['id']}/rotate-secret"
    assert (await door.call("POST", path)).body["old_until"] == "2026-01-16T10:30:00.000Z"
    last = await door.call("POST", path, {"overlap": "0s", "secret": new_secret()})
    found = await door.database.read(lambda tx: endpoints.live_secrets(tx, [made["id"]]))
    assert [live.secret.reveal() for live in found[made["id"]]] == [last.body["secret"]]


async def test_switching_off_keeps_the_backlog_and_tells_the_others_once(api: Api) -> None:
    made, other = await api.create_endpoint(description="shop"), await api.create_endpoint()
    await api.finish((await api.register())["id"])
    path = f"/v1/endpoints/{made['id']}"
    off = await api.call("POST", f"{path}/disable")
    assert (off.status, off.body["enabled"], off.body["disabled_reason"]) == (200, False, "switched off over the API")
    await api.call("POST", f"{path}/disable")
    told = (await api.call("GET", "/v1/events?type=endpoint.disabled")).body["data"]
    assert [event["data"]["endpoint"] for event in told] == [
        {"id": made["id"], "description": "shop", "reason": "switched off over the API"}
    ]
    heard = (await api.call("GET", f"/v1/deliveries?event={told[0]['id']}")).body["data"]
    assert [delivery["endpoint_id"] for delivery in heard] == [other["id"]]
    kept = (await api.call("GET", f"/v1/deliveries?endpoint={made['id']}")).body["data"]
    assert {(d["state"], d["next_attempt_at"]) for d in kept} == {("pending", None)}
    on = await api.call("POST", f"{path}/enable")
    assert (on.body["enabled"], on.body["disabled_reason"]) == (True, None)
    kept = (await api.call("GET", f"/v1/deliveries?endpoint={made['id']}")).body["data"]
    assert {d["next_attempt_at"] for d in kept} == {"2026-01-15T10:30:00.000Z"}


async def test_a_ping_goes_to_this_endpoint_alone_whatever_it_asked_for(api: Api) -> None:
    made = await api.create_endpoint(events=["run.waiting"], filter="`false`")
    await api.create_endpoint()
    reply = await api.call("POST", f"/v1/endpoints/{made['id']}/ping")
    assert reply.status == 202
    sent = (await api.call("GET", f"/v1/deliveries?event={reply.body['event_id']}")).body["data"]
    assert [delivery["endpoint_id"] for delivery in sent] == [made["id"]]
    event = (await api.call("GET", f"/v1/events/{reply.body['event_id']}")).body
    assert (event["type"], event["data"]["run"], event["data"]["sequence"]) == ("bridge.ping", None, None)
    assert event["data"]["endpoint"]["id"] == made["id"]


async def test_nothing_is_sent_to_an_endpoint_that_is_switched_off(door: Api) -> None:
    made = await door.create_endpoint()
    path = f"/v1/endpoints/{made['id']}"
    await door.call("POST", f"{path}/disable")
    assert (await door.call("POST", f"{path}/ping")).status == 409
    since = {"since": "2026-01-01T00:00:00Z"}
    assert (await door.call("POST", f"{path}/replay", since)).status == 409
    assert (await door.call("POST", f"{path}/replay", {**since, "dry_run": True})).status == 200


async def test_an_endpoint_that_is_not_there_is_a_404(door: Api) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/ping"), ("POST", "/enable")):
        assert (await door.call(method, f"/v1/endpoints/ep_none{path}")).status == 404
