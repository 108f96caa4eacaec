"""What an endpoint can ask for about its deliveries, and how it is shown to stand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.domain.delivery import Lane, Outcome, PostResult
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.store import endpoint_health, endpoints
from bridge.store.deliveries import due_endpoints
from tests.support.api_bridge import Api


async def fail(api: Api, endpoint_id: str, times: int = 5) -> None:
    answer = PostResult(Outcome.TIMEOUT, duration_ms=1)
    for _ in range(times):
        await api.database.write(lambda tx: endpoint_health.apply_result(tx, endpoint_id, answer))


async def test_without_wishes_an_endpoint_has_plain_manners(door: Api) -> None:
    made = await door.create_endpoint()
    shown = {name: made[name] for name in ("payload", "format", "rate_limit", "signature", "public_keys", "ordered")}
    assert shown == {
        "payload": "full",
        "format": "standard",
        "rate_limit": None,
        "signature": ["v1"],
        "public_keys": [],
        "ordered": False,
    }


async def test_wishes_are_kept_and_changed(api: Api) -> None:
    made = await api.create_endpoint(payload="thin", format="cloudevents", rate_limit=2.5, signature=["v1a", "v1"])
    assert (made["payload"], made["format"], made["rate_limit"]) == ("thin", "cloudevents", 2.5)
    assert made["signature"] == ["v1", "v1a"]
    path = f"/v1/endpoints/{made['id']}"
    change = {"payload": "full", "format": "standard", "rate_limit": None, "signature": ["v1"]}
    changed = (await api.call("PATCH", path, change)).body
    assert {name: changed[name] for name in change} == change
    again = (await api.call("PATCH", path, {"rate_limit": 3, "description": "x"})).body
    assert (again["rate_limit"], again["signature"]) == (3.0, ["v1"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "xml"),
        ("format", None),
        ("rate_limit", 0),
        ("rate_limit", -1),
        ("rate_limit", "fast"),
        ("rate_limit", 1e9),
        ("signature", []),
        ("signature", ["v1a"]),
        ("signature", ["v1", "v2"]),
        ("signature", "v1"),
        ("signature", None),
    ],
)
async def test_a_wish_that_cannot_be_met_is_named(door: Api, field: str, value: object) -> None:
    reply = await door.call("POST", "/v1/endpoints", {"url": "https://app.example.org/hooks", field: value})
    assert (reply.status, list(reply.fields)) == (422, [field])
    made = await door.create_endpoint()
    assert (await door.call("PATCH", f"/v1/endpoints/{made['id']}", {field: value})).status == 422


async def test_the_public_key_is_shown_and_the_private_one_never(door: Api) -> None:
    made = await door.create_endpoint(signature=["v1", "v1a"])
    (key,) = made["public_keys"]
    assert key.startswith("whpk_")
    for path in (f"/v1/endpoints/{made['id']}", "/v1/endpoints"):
        shown = await door.call("GET", path)
        assert key in shown.content.decode()
        assert "whsk_" not in shown.content.decode()


async def test_each_kind_of_secret_is_rotated_by_itself(api: Api) -> None:
    made = await api.create_endpoint(signature=["v1", "v1a"])
    path = f"/v1/endpoints/{made['id']}"
    shared = (await api.call("POST", f"{path}/rotate-secret", {})).body
    assert (shared["secret"][:6], shared["public_key"]) == ("whsec_", None)
    assert (await api.call("GET", path)).body["public_keys"] == made["public_keys"], "untouched"
    own = (await api.call("POST", f"{path}/rotate-secret", {"signature": "v1a", "overlap": "1h"})).body
    assert (own["secret"], own["public_key"][:5]) == (None, "whpk_")
    assert (await api.call("GET", path)).body["public_keys"] == [own["public_key"], *made["public_keys"]]
    api.clock.advance(3600)
    assert (await api.call("GET", path)).body["public_keys"] == [own["public_key"]]


@pytest.mark.parametrize("overlap", ["8d", "169h", "-1s"])
async def test_an_overlap_is_at_most_seven_days(door: Api, overlap: str) -> None:
    made = await door.create_endpoint()
    reply = await door.call("POST", f"/v1/endpoints/{made['id']}/rotate-secret", {"overlap": overlap})
    assert (reply.status, list(reply.fields)) == (422, ["overlap"])


async def test_a_key_that_is_not_used_cannot_be_rotated_and_none_can_be_given(door: Api) -> None:
    made = await door.create_endpoint()
    path = f"/v1/endpoints/{made['id']}/rotate-secret"
    assert (await door.call("POST", path, {"signature": "v1a"})).status == 409
    given = {"signature": "v1a", "secret": made["secret"]}
    assert (await door.call("POST", path, given)).status == 422


async def test_an_endpoint_that_fails_shows_since_when_and_until_when_it_rests(api: Api) -> None:
    made = await api.create_endpoint()
    path = f"/v1/endpoints/{made['id']}"
    assert (made["failing_since"], made["paused_until"]) == (None, None)
    await fail(api, made["id"])
    shown = (await api.call("GET", path)).body
    assert shown["failing_since"] == "2026-01-15T10:30:00.000Z"
    assert shown["paused_until"] == "2026-01-15T10:30:05.000Z"
    await api.call("POST", f"{path}/disable")
    enabled = (await api.call("POST", f"{path}/enable")).body
    assert (enabled["enabled"], enabled["failing_since"], enabled["paused_until"]) == (True, None, None)


async def test_the_reason_of_a_switch_off_by_itself_is_shown_and_told_to_the_others(api: Api) -> None:
    made, other = await api.create_endpoint(), await api.create_endpoint()
    for _ in range(11):
        await fail(api, made["id"], 1)
        api.clock.advance(timedelta(hours=12).total_seconds())
    shown = (await api.call("GET", f"/v1/endpoints/{made['id']}")).body
    assert not shown["enabled"]
    assert "5 days" in shown["disabled_reason"]
    feed = (await api.call("GET", "/v1/events")).body["data"]
    assert [event["type"] for event in feed] == ["endpoint.failing", "endpoint.disabled"]
    assert feed[1]["data"]["endpoint"]["reason"] == shown["disabled_reason"]
    told = (await api.call("GET", "/v1/deliveries")).body["data"]
    assert {delivery["endpoint_id"] for delivery in told} == {other["id"]}


async def test_an_endpoint_of_the_file_can_be_enabled_when_it_was_switched_off_by_itself(api: Api) -> None:
    """Else nothing but a restart under another name would bring it back."""
    endpoint = Endpoint(id="my-app", url="http://127.0.0.1:9/hooks", source=EndpointSource.CONFIG)
    await api.database.write(lambda tx: endpoints.sync_file_endpoints(tx, [endpoint]))
    gone = PostResult(Outcome.GONE, duration_ms=1, status=410)
    await api.database.write(lambda tx: endpoint_health.apply_result(tx, "my-app", gone))
    assert not (await api.call("GET", "/v1/endpoints/my-app")).body["enabled"]
    await api.database.write(lambda tx: endpoints.sync_file_endpoints(tx, [endpoint]))
    assert not (await api.call("GET", "/v1/endpoints/my-app")).body["enabled"], "a restart does not undo it"
    enabled = await api.call("POST", "/v1/endpoints/my-app/enable")
    assert (enabled.status, enabled.body["enabled"]) == (200, True)


async def test_a_ping_stands_before_any_backlog(api: Api) -> None:
    made = await api.create_endpoint()
    await fail(api, made["id"])
    reply = await api.call("POST", f"/v1/endpoints/{made['id']}/ping")
    assert reply.status == 202
    due = await api.database.read(due_endpoints)
    assert set(due[made["id"]].lanes) == {Lane.AT_ONCE}
