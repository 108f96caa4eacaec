"""Runs over the API: registering, waiting, webhooks of one run, stopping, the feed and the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.sandbox import Reply, Scenario
from tests.support.daemon_setup import DaemonSetup, daemon_setup

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEVER_ENDS = Scenario(duration_s=None)
OVER = Scenario(duration_s=1, outcome="failed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DaemonSetup]:
    """One set-up for all tests of this file; each uses paths of its own."""
    folder = tmp_path_factory.mktemp("place")
    delivery = {"allow": ["127.0.0.0/8"], "retry_schedule": ["200ms"] * 5}
    async with daemon_setup(folder, "dify", "retab", endpoints=[], delivery=delivery) as made, made.daemon:
        yield made
        assert "Traceback" not in made.daemon.log_since()


async def test_wait_answers_when_the_run_is_over_not_at_its_timeout(place: DaemonSetup) -> None:
    run = await place.register(Scenario(duration_s=1.5, outcome="partial"))
    async with asyncio.timeout(45):  # far less than the timeout of the wait
        finished = await place.daemon.finish_of(run["id"], timeout_s=300)
    assert (finished["status"], finished["next_poll_at"]) == ("partial", None)
    async with asyncio.timeout(45):  # nor when it is over already
        assert await place.daemon.finish_of(run["id"], timeout_s=300) == finished


async def test_wait_answers_the_present_state_at_the_timeout(place: DaemonSetup) -> None:
    run = await place.register(NEVER_ENDS)
    await place.daemon.eventually(f"/v1/runs/{run['id']}", lambda shown: shown["status"] == "running")
    shown = await place.daemon.ask("GET", f"/v1/runs/{run['id']}/wait?timeout=0.2")
    assert (shown["status"], shown["settled"]) == ("running", False)


async def test_a_one_run_webhook_receives_the_finish_signed_with_the_secret_that_was_shown_once(
    place: DaemonSetup,
) -> None:
    webhook = {"url": place.receiver.url("/one")}
    run = await place.register(Scenario(duration_s=1), webhook=webhook, metadata={"a": 1})
    secret = run["webhook"]["secret"]
    assert secret.startswith("whsec_")
    other = await place.register(Scenario(duration_s=0.5))
    (received,) = await place.wait_for_posts(1, "/one")
    event = Webhook(secret).verify(received.body, received.headers)
    assert (event["type"], event["data"]["run"]["id"]) == ("run.finished", run["id"])
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(received.body.replace(b"succeeded", b"failed"), received.headers)
    shown = await place.daemon.ask("GET", f"/v1/runs/{run['id']}")
    listed = await place.daemon.ask("GET", "/v1/endpoints?one_run=true")
    assert secret not in str(shown) + str(listed)
    await place.daemon.finish_of(other["id"])
    assert len(place.posts("/one")) == 1  # it hears of no other run, and of no other event


async def test_a_second_registration_is_a_200_that_changes_nothing_but_adds_a_webhook(place: DaemonSetup) -> None:
    first = await place.register(NEVER_ENDS, metadata={"n": 1}, tags=["a"])
    again = {"metadata": {"n": 2}, "tags": ["b"], "deadline": "1s"}
    second = await place.daemon.register("dify", first["provider_run_id"], status=200, **again)
    assert (second["id"], second["metadata"], second["tags"]) == (first["id"], {"n": 1}, ["a"])
    with_webhook = {"webhook": {"url": place.receiver.url("/added")}}
    third = await place.daemon.register("dify", first["provider_run_id"], status=200, **with_webhook)
    fourth = await place.daemon.register("dify", first["provider_run_id"], status=200, **with_webhook)
    assert third["webhook"]["secret"]
    assert (fourth["webhook"]["id"], fourth["webhook"].get("secret")) == (third["webhook"]["id"], None)


async def test_a_webhook_added_after_the_finish_fires_at_once_with_the_same_bytes(place: DaemonSetup) -> None:
    run = await place.register(OVER, age_s=60, webhook={"url": place.receiver.url("/early")})
    await place.daemon.finish_of(run["id"])
    late = {"webhook": {"url": place.receiver.url("/late")}}
    await place.daemon.register("dify", run["provider_run_id"], status=200, **late)
    received = await place.wait_for_posts(2, "/early", "/late")
    assert {one.path for one in received} == {"/early", "/late"}
    assert len({(one.id, one.body) for one in received}) == 1


async def test_the_same_request_again_under_one_idempotency_key_is_one_registration(place: DaemonSetup) -> None:
    wanted = {"connection": "dify", "provider_run_id": place.sandbox.add_run("dify", scenario=NEVER_ENDS)}
    key = {"Idempotency-Key": "order-17"}
    first = await place.daemon.ask("POST", "/v1/runs", wanted, status=201, headers=key)
    await place.daemon.kill()
    await place.daemon.restart()
    assert await place.daemon.ask("POST", "/v1/runs", wanted, status=201, headers=key) == first


async def test_delete_stops_watching_without_an_event(place: DaemonSetup) -> None:
    run = await place.register(NEVER_ENDS, webhook={"url": place.receiver.url("/gone")})
    await place.daemon.eventually(f"/v1/runs/{run['id']}", lambda shown: shown["status"] == "running")
    await place.daemon.ask("DELETE", f"/v1/runs/{run['id']}", status=204)

    def asked() -> int:
        return sum(one.run_id == run["provider_run_id"] for one in place.sandbox.requests)

    place.sandbox.add_run("dify", run_id=run["provider_run_id"], scenario=OVER, age_s=60)
    counts = []
    for _ in range(2):  # another run begins and ends, twice
        other = await place.register(Scenario(duration_s=1.5))
        await place.daemon.finish_of(other["id"])
        counts.append(asked())
    assert counts[0] == counts[1]
    assert (await place.daemon.call("GET", f"/v1/runs/{run['id']}"))[0] == 404
    assert place.posts("/gone") == []
    assert [event["type"] for event in await place.daemon.all_events(run_id=run["id"])] == ["run.started"]


async def test_a_triggered_run_is_started_at_the_provider_and_watched(place: DaemonSetup) -> None:
    place.sandbox.set_triggered_scenario("retab", Scenario(duration_s=1, output={"total": 3}))
    trigger = {"workflow_id": "wf_1", "inputs": {"start": 1}}
    run = await place.daemon.ask("POST", "/v1/runs", {"connection": "retab", "trigger": trigger}, status=201)
    assert run["workflow_id"] == "wf_1"
    assert place.sandbox.state.get("retab", run["provider_run_id"])
    finished = await place.daemon.finish_of(run["id"])
    assert (finished["status"], finished["output"]) == ("succeeded", {"extract-1": {"total": 3}})


async def test_a_trigger_with_an_unknown_outcome_is_not_repeated_under_its_key(place: DaemonSetup) -> None:
    """A gateway that gives up while the provider goes on would otherwise start a run for each try."""
    place.sandbox.fail("retab", "504", path_ends="/workflows/runs")
    body = {"connection": "retab", "trigger": {"workflow_id": "wf_unknown"}}
    key = {"Idempotency-Key": "an-order"}
    for _ in range(3):
        problem = await place.daemon.ask("POST", "/v1/runs", body, status=502, headers=key)
        assert "whether the provider started a run is not known" in problem["detail"]
    assert sum(seen.method == "POST" and seen.status == 504 for seen in place.sandbox.requests) == 1


async def test_cancel_reaches_the_provider_and_the_run_ends_cancelled(place: DaemonSetup) -> None:
    run_id = place.sandbox.add_run("retab", scenario=NEVER_ENDS)
    run = await place.daemon.register("retab", run_id)
    await place.daemon.ask("POST", f"/v1/runs/{run['id']}/cancel", status=202)
    assert (await place.daemon.finish_of(run["id"]))["status"] == "cancelled"


async def test_feed_and_stream_have_every_event_in_order_and_resume_after_any(place: DaemonSetup) -> None:
    async with place.daemon.stream() as messages:
        runs = [await place.register(NEVER_ENDS) for _ in range(3)]
        for run in runs:
            await place.daemon.eventually(f"/v1/runs/{run['id']}", lambda shown: shown["status"] == "running")
            place.sandbox.add_run("dify", run_id=run["provider_run_id"], scenario=OVER, age_s=60)
            await place.daemon.finish_of(run["id"])
        async with asyncio.timeout(60):
            seen = await messages_until(messages, 6, runs)
    feed = await place.daemon.all_events()
    first, last = (next(n for n, event in enumerate(feed) if event["id"] == seen[end]["id"]) for end in (0, -1))
    feed = feed[first : last + 1]
    assert [message["id"] for message in seen] == [event["id"] for event in feed]
    assert [message["event"] for message in seen] == [event["type"] for event in feed]
    for message in seen:
        _, _, stored = await place.daemon.call("GET", f"/v1/events/{message['id']}")
        assert message["data"].encode() == stored
    for position in (0, 3):
        rest = seen[position + 1 :]
        async with place.daemon.stream(Last_Event_ID=seen[position]["id"]) as messages, asyncio.timeout(60):
            assert [await anext(messages) for _ in rest] == rest
        page = await place.daemon.ask("GET", f"/v1/events?after={seen[position]['id']}&limit={len(rest)}")
        assert [event["id"] for event in page["data"]] == [message["id"] for message in rest]
        assert page["next_cursor"] == rest[-1]["id"]


async def messages_until(
    messages: AsyncIterator[dict[str, str]], number: int, runs: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """The messages up to the one that makes so many about these runs; others may come in between."""
    ids, seen, about_them = {run["id"] for run in runs}, [], 0
    while about_them < number:
        seen.append(await anext(messages))
        about_them += (json.loads(seen[-1]["data"])["data"]["run"] or {}).get("id") in ids
    return seen


async def test_a_replay_brings_the_same_event_again_under_its_id(place: DaemonSetup) -> None:
    made = await place.add_endpoint("/replayed", filter="data.run.tags[0] == 'replayed'")
    run = await place.register(OVER, age_s=60, tags=["replayed"])
    (first,) = await place.wait_for_posts(1, "/replayed")
    await place.daemon.ask("POST", f"/v1/events/{first.id}/replay", {}, status=202)
    received = await place.wait_for_posts(2, "/replayed")
    assert received[1].verified
    assert (received[1].id, received[1].body) == (first.id, first.body)
    assert (await place.daemon.ask("GET", f"/v1/runs/{run['id']}"))["events"] == [first.event]
    await place.daemon.ask("DELETE", f"/v1/endpoints/{made['id']}", status=204)


async def test_a_ping_reaches_its_endpoint_alone(place: DaemonSetup) -> None:
    first, second = [await place.add_endpoint(path, events=["endpoint.disabled"]) for path in ("/a", "/b")]
    ping = await place.daemon.ask("POST", f"/v1/endpoints/{second['id']}/ping", status=202)
    (received,) = await place.wait_for_posts(1, "/a", "/b")
    assert (received.path, received.verified, received.id) == ("/b", True, ping["event_id"])
    data = received.event["data"]
    assert (data["sequence"], data["previous_status"], data["run"]) == (None, None, None)
    assert data["endpoint"]["id"] == second["id"]
    for endpoint in (first, second):
        await place.daemon.ask("DELETE", f"/v1/endpoints/{endpoint['id']}", status=204)
    assert len(place.posts("/a", "/b")) == 1


async def test_a_redirect_is_a_failed_attempt_and_is_not_followed(place: DaemonSetup) -> None:
    moved = Reply(307, headers={"Location": place.receiver.url("/elsewhere")})
    place.receiver.script(moved, path="/moved")
    await place.register(OVER, age_s=60, webhook={"url": place.receiver.url("/moved")})
    received = await place.wait_for_posts(2, "/moved", "/elsewhere")
    assert [one.path for one in received] == ["/moved", "/moved"]
