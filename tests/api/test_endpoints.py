"""Endpoints over the API."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.domain.delivery import DeliveryState, Lane, Outcome, PostResult
from bridge.domain.endpoint import Endpoint, EndpointSource
from bridge.domain.signing.hmac_v1 import new_secret
from bridge.store import deliveries, endpoint_health, endpoints
from bridge.store.attempts import AttemptResult, record_attempts
from bridge.store.deliveries import due_endpoints
from bridge.store.transaction import Tx
from tests.support.api_bridge import NODE, Api


async def fail(api: Api, endpoint_id: str, times: int = 5) -> None:
    answer = PostResult(Outcome.TIMEOUT, duration_ms=1)
    for _ in range(times):
        await api.database.write(lambda tx: endpoint_health.apply_result(tx, endpoint_id, answer))


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


async def test_a_given_secret_is_taken(sqlite_api: Api) -> None:
    secret = new_secret()
    assert (await sqlite_api.create_endpoint(secret=secret))["secret"] == secret


async def test_header_values_are_shown_at_creation_only(sqlite_api: Api) -> None:
    """They often hold a token of the receiver."""
    made = await sqlite_api.create_endpoint(headers={"X-Key": "canary"})
    assert made["headers"] == {"X-Key": "canary"}
    shown = await sqlite_api.call("GET", f"/v1/endpoints/{made['id']}")
    assert shown.body["headers"] == {"X-Key": "****"}


@pytest.mark.parametrize("description", ["a\x9b31mred", "a\x85b", "a\x1b[31m", "a\u202eb", "a\nb"])
async def test_a_description_steers_no_terminal(sqlite_api: Api, description: str) -> None:
    url = "https://app.example.org/x"
    reply = await sqlite_api.call("POST", "/v1/endpoints", {"url": url, "description": description})
    assert (reply.status, list(reply.fields)) == (422, ["description"])


async def test_a_url_with_a_masked_secret_is_not_taken_back(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint(url="https://app.example.org/x?sp=%2Ftriggers&sig=canary")
    path = f"/v1/endpoints/{made['id']}"
    shown = (await sqlite_api.call("GET", path)).body["url"]
    assert shown == "https://app.example.org/x?sp=%2Ftriggers&sig=****"
    refused = await sqlite_api.call("PATCH", path, {"url": shown})
    assert (refused.status, list(refused.fields)) == (422, ["url"])
    assert "give the value itself" in refused.fields["url"]


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
async def test_a_change_is_checked_like_a_creation(sqlite_api: Api, body: dict[str, object]) -> None:
    made = await sqlite_api.create_endpoint()
    assert list((await sqlite_api.call("PATCH", f"/v1/endpoints/{made['id']}", body)).fields) == list(body)


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

    async def shown() -> list[str | None]:
        one = (await api.call("GET", f"/v1/endpoints/{made['id']}")).body
        (listed,) = (await api.call("GET", "/v1/endpoints")).body["data"]
        return [one["old_secret_until"], listed["old_secret_until"]]

    assert await live() == [reply.body["secret"], made["secret"]]
    assert await shown() == [reply.body["old_until"]] * 2
    api.clock.advance(2 * 3600)
    assert await live() == [reply.body["secret"]]
    assert await shown() == [None, None]


async def test_rotation_without_body_overlaps_for_a_day_and_without_overlap_not_at_all(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint()
    path = f"/v1/endpoints/{made['id']}/rotate-secret"
    assert (await sqlite_api.call("POST", path)).body["old_until"] == "2026-01-16T10:30:00.000Z"
    last = await sqlite_api.call("POST", path, {"overlap": "0s", "secret": new_secret()})
    found = await sqlite_api.database.read(lambda tx: endpoints.live_secrets(tx, [made["id"]]))
    assert [live.secret.reveal() for live in found[made["id"]]] == [last.body["secret"]]


async def test_switching_off_keeps_the_backlog_and_notifies_the_others_once(api: Api) -> None:
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


async def test_nothing_is_sent_to_an_endpoint_that_is_switched_off(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint()
    path = f"/v1/endpoints/{made['id']}"
    await sqlite_api.call("POST", f"{path}/disable")
    assert (await sqlite_api.call("POST", f"{path}/ping")).status == 409
    since = {"since": "2026-01-01T00:00:00Z"}
    assert (await sqlite_api.call("POST", f"{path}/replay", since)).status == 409
    assert (await sqlite_api.call("POST", f"{path}/replay", {**since, "dry_run": True})).status == 200


async def test_an_endpoint_that_is_not_there_is_a_404(sqlite_api: Api) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/ping"), ("POST", "/enable")):
        assert (await sqlite_api.call(method, f"/v1/endpoints/ep_none{path}")).status == 404


async def test_without_wishes_an_endpoint_has_plain_manners(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint()
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
async def test_a_wish_that_cannot_be_met_is_named(sqlite_api: Api, field: str, value: object) -> None:
    reply = await sqlite_api.call("POST", "/v1/endpoints", {"url": "https://app.example.org/hooks", field: value})
    assert (reply.status, list(reply.fields)) == (422, [field])
    made = await sqlite_api.create_endpoint()
    assert (await sqlite_api.call("PATCH", f"/v1/endpoints/{made['id']}", {field: value})).status == 422


async def test_the_public_key_is_shown_and_the_private_one_never(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint(signature=["v1", "v1a"])
    (key,) = made["public_keys"]
    assert key.startswith("whpk_")
    for path in (f"/v1/endpoints/{made['id']}", "/v1/endpoints"):
        shown = await sqlite_api.call("GET", path)
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
async def test_an_overlap_is_at_most_seven_days(sqlite_api: Api, overlap: str) -> None:
    made = await sqlite_api.create_endpoint()
    reply = await sqlite_api.call("POST", f"/v1/endpoints/{made['id']}/rotate-secret", {"overlap": overlap})
    assert (reply.status, list(reply.fields)) == (422, ["overlap"])


async def test_a_key_that_is_not_used_cannot_be_rotated_and_none_can_be_given(sqlite_api: Api) -> None:
    made = await sqlite_api.create_endpoint()
    path = f"/v1/endpoints/{made['id']}/rotate-secret"
    assert (await sqlite_api.call("POST", path, {"signature": "v1a"})).status == 409
    given = {"signature": "v1a", "secret": made["secret"]}
    assert (await sqlite_api.call("POST", path, given)).status == 422


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


async def test_the_reason_of_a_switch_off_by_itself_is_shown_and_reported_to_the_others(api: Api) -> None:
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
    """Otherwise only a restart under another name would bring it back."""
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


async def test_a_filter_is_tried_on_the_newest_events(api: Api) -> None:
    first, second = await api.register("a", metadata={"n": 1}), await api.register("b", metadata={"n": "x"})
    await api.finish(first["id"])
    await api.finish(second["id"])
    body = {"filter": "abs(data.run.metadata.n) == `1`", "types": ["run.finished"]}
    tried = (await api.call("POST", "/v1/endpoints/test-filter", body)).body
    assert [(item["run_id"], item["matches"]) for item in tried["data"]] == [(second["id"], False), (first["id"], True)]
    assert "invalid type" in tried["data"][0]["error"]
    assert (tried["matched"], tried["failed"]) == (1, 1)
    body = {"filter": "type == 'run.finished'", "limit": 1}
    limited = (await api.call("POST", "/v1/endpoints/test-filter", body)).body
    assert [(item["run_id"], item["type"]) for item in limited["data"]] == [(second["id"], "run.finished")]
    assert (limited["matched"], limited["failed"], limited["data"][0]["error"]) == (1, 0, None)


@pytest.mark.parametrize(
    ("expression", "says"),
    [('data.run.status == "failed"', "single quotes"), ("data.run.statuss", "did you mean `status`?")],
)
async def test_a_filter_that_can_never_match_is_refused_everywhere(sqlite_api: Api, expression: str, says: str) -> None:
    made = await sqlite_api.create_endpoint()
    for method, path in {
        "POST": "/v1/endpoints",
        "PATCH": f"/v1/endpoints/{made['id']}",
    }.items():
        body = {"url": "https://app.example.org/", "filter": expression}
        assert says in (await sqlite_api.call(method, path, body)).fields["filter"]
    assert says in (await sqlite_api.call("POST", "/v1/endpoints/test-filter", {"filter": expression})).fields["filter"]


async def test_events_on_which_a_filter_fails_are_counted(api: Api) -> None:
    """They do not reach the endpoint, and without the count this would stay hidden."""
    made = await api.create_endpoint(filter="contains(data.run.error.message, 'quota')", events=["run.finished"])
    assert made["filter_errors"] == 0
    for name in ("a", "b"):
        await api.finish((await api.register(name))["id"])
    (shown,) = (await api.call("GET", "/v1/endpoints")).body["data"]
    assert shown["filter_errors"] == 2
    assert (await api.call("GET", f"/v1/endpoints/{made['id']}")).body["filter_errors"] == 2
    change = {"filter": "contains(data.run.error.message || '', 'quota')"}
    assert (await api.call("PATCH", f"/v1/endpoints/{made['id']}", change)).body["filter_errors"] == 0
    await api.finish((await api.register("c"))["id"])
    assert (await api.call("GET", f"/v1/endpoints/{made['id']}")).body["filter_errors"] == 0


async def test_an_endpoint_shows_how_its_attempts_went(api: Api) -> None:
    made = await api.create_endpoint()
    none = {"delivered": 0, "failed": 0, "success_rate": None, "p50_ms": None, "p95_ms": None}
    empty = {"hour": none, "day": none, "sampled_since": None, "pending": 0, "oldest_due_at": None, "last_answer": None}
    assert made["stats"] == empty
    for answer in (PostResult(Outcome.DELIVERED, 12, 204), PostResult(Outcome.SERVER_ERROR, 40, 503, "it is down")):
        await api.call("POST", f"/v1/endpoints/{made['id']}/ping", {})

        def work(tx: Tx, answer: PostResult = answer) -> None:
            (leased,) = deliveries.acquire_due(tx, node=NODE, endpoint_id=made["id"], limit=1)
            is_over = answer.outcome is Outcome.DELIVERED
            state = DeliveryState.DELIVERED if is_over else DeliveryState.PENDING
            record_attempts(tx, node=NODE, results=[AttemptResult(leased.delivery, tx.now, answer, state, None)])

        await api.database.write(work)
    (shown,) = (await api.call("GET", "/v1/endpoints")).body["data"]
    assert shown["stats"] == (await api.call("GET", f"/v1/endpoints/{made['id']}")).body["stats"]
    counted = {"delivered": 1, "failed": 1, "success_rate": 0.5, "p50_ms": 12, "p95_ms": 40}
    assert (shown["stats"]["hour"], shown["stats"]["day"], shown["stats"]["pending"]) == (counted, counted, 1)
    last = {"at": "2026-01-15T10:30:00.000Z", "outcome": "server_error", "status": 503, "detail": "it is down"}
    assert shown["stats"]["last_answer"] == last
    disabled = (await api.call("POST", f"/v1/endpoints/{made['id']}/disable")).body
    assert disabled["stats"]["day"] == counted
