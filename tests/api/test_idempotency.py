"""`Idempotency-Key`: a request sent twice is done once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge.api.server import build_app, start_server
from bridge.domain.errors import ProviderFailed, StartUnknown, StoreUnavailable
from bridge.domain.secret import Secret
from bridge.store.idempotency import StoredResponse, find_responses, store_responses
from tests.support.api_bridge import TOKEN, Api

RUN = {"connection": "dify-prod", "provider_run_id": "r-1", "webhook": {"url": "https://app.example.org/"}}
KEY = {"Idempotency-Key": "k-1"}


async def test_the_same_request_gets_the_first_answer_again(api: Api) -> None:
    """Even the 201 and the secret: a client that lost the first answer must be able to read it."""
    first = await api.call("POST", "/v1/runs", RUN, headers=KEY)
    again = await api.call("POST", "/v1/runs", dict(reversed(RUN.items())), headers=KEY)
    assert (first.status, again.status) == (201, 201)
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("method_path", "body"),
    [("/v1/runs", {**RUN, "tags": ["x"]}), ("/v1/endpoints", RUN), ("/v1/runs/batch", RUN)],
)
async def test_the_same_key_for_another_request_is_refused(sqlite_api: Api, method_path: str, body: object) -> None:
    await sqlite_api.call("POST", "/v1/runs", RUN, headers=KEY)
    reply = await sqlite_api.call("POST", method_path, body, headers=KEY)
    assert (reply.status, list(reply.fields)) == (422, ["Idempotency-Key"])


async def test_while_the_first_request_is_under_way_a_second_is_a_409(sqlite_api: Api) -> None:
    sqlite_api.bridge.before_trigger = asyncio.Event()
    body = {"connection": "dify-prod", "trigger": {"workflow_id": "w"}}
    first = asyncio.create_task(sqlite_api.call("POST", "/v1/runs", body, headers=KEY))
    await sqlite_api.bridge.trigger_asked.wait()
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)).status == 409
    sqlite_api.bridge.before_trigger.set()
    assert (await first).status == 201
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)).content == (await first).content
    assert [what for what, _ in sqlite_api.bridge.asked] == ["trigger"]


async def test_a_failure_is_not_kept(sqlite_api: Api) -> None:
    """Its cause may be mended; the next try must really try."""
    body = {"connection": "dify-prod", "trigger": {"workflow_id": "w"}}
    sqlite_api.bridge.refuses = ProviderFailed("no answer")
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)).status == 502
    assert (await sqlite_api.call("POST", "/v1/runs", {}, headers=KEY)).status == 422
    sqlite_api.bridge.refuses = None
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)).status == 201


async def test_a_start_whose_outcome_is_not_known_is_not_tried_again_under_its_key(sqlite_api: Api) -> None:
    """A gateway answered 504 while the provider went on; three tries started three runs."""
    body = {"connection": "dify-prod", "trigger": {"workflow_id": "w"}}
    sqlite_api.bridge.refuses = StartUnknown("HTTP 504; whether the provider started a run is not known")
    first = await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)
    sqlite_api.bridge.refuses = None
    again = await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)
    assert (first.status, again.status, again.content) == (502, 502, first.content)
    assert again.headers["Content-Type"] == first.headers["Content-Type"] == "application/problem+json"
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "is not known" in again.body["detail"]
    assert [what for what, _ in sqlite_api.bridge.asked] == ["trigger"]
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers={"Idempotency-Key": "other"})).status == 201


async def test_every_post_honours_the_key(api: Api) -> None:
    run, endpoint = await api.register(), await api.create_endpoint()
    await api.finish((await api.register("r-2"))["id"])
    event = (await api.call("GET", "/v1/events")).body["data"][-1]["id"]
    delivery = (await api.call("GET", "/v1/deliveries")).body["data"][0]["id"]
    at, since = f"/v1/endpoints/{endpoint['id']}", {"since": "2026-01-01T00:00:00Z", "status": "missed"}
    calls: list[tuple[str, object]] = [
        ("/v1/runs/batch", {"runs": [RUN]}),
        (f"/v1/runs/{run['id']}/poll", None),
        (f"/v1/runs/{run['id']}/cancel", None),
        ("/v1/connections/dify-prod/check", None),
        ("/v1/endpoints", {"url": "https://other.example.org"}),
        (f"{at}/rotate-secret", None),
        (f"{at}/ping", {}),
        (f"{at}/replay", since),
        (f"{at}/disable", {}),
        (f"{at}/enable", {}),
        (f"/v1/events/{event}/replay", {}),
        (f"/v1/deliveries/{delivery}/retry", {}),
    ]
    for number, (path, body) in enumerate(calls):
        first = await api.call("POST", path, body, headers={"Idempotency-Key": f"key {number}"})
        asked = len(api.bridge.asked)
        again = await api.call("POST", path, body, headers={"Idempotency-Key": f"key {number}"})
        assert first.status < 300, (path, first.body)
        assert (again.status, again.content) == (first.status, first.content), path
        assert again.headers["Idempotency-Replayed"] == "true", path
        assert len(api.bridge.asked) == asked, path


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel", "a\tb"])
async def test_a_key_is_1_to_255_printable_ascii_characters(sqlite_api: Api, key: str) -> None:
    reply = await sqlite_api.call("POST", "/v1/runs", RUN, headers={"Idempotency-Key": key})
    assert list(reply.fields) == ["Idempotency-Key"]
    assert (await sqlite_api.call("GET", "/v1/runs")).body["data"] == []


async def test_the_answer_is_kept_in_the_transaction_of_what_was_done(api: Api) -> None:
    """A crash between the two would do it twice. Another node that was faster undoes this one's part."""
    reply = await api.call("POST", "/v1/endpoints", {"url": "https://a.example.org"}, headers=KEY)
    (kept,) = await api.database.read(lambda tx: find_responses(tx, ["k-1"]))
    assert kept is not None
    assert json.loads(kept.body)["id"] == reply.body["id"]

    real_read = api.database.read

    async def read_before_the_other_node(work: object) -> list[None]:
        api.database.read = real_read  # type: ignore[method-assign]
        await api.database.write(lambda tx: store_responses(tx, [("k-2", StoredResponse("other", 201, b"{}"))]))
        return [None]

    api.database.read = read_before_the_other_node  # type: ignore[assignment, method-assign]
    late = await api.call("POST", "/v1/endpoints", {"url": "https://b.example.org"}, headers={"Idempotency-Key": "k-2"})
    assert late.status == 409
    listed = (await api.call("GET", "/v1/endpoints")).body["data"]
    assert [endpoint["url"] for endpoint in listed] == ["https://a.example.org"]


@asynccontextmanager
async def another_node(api: Api) -> AsyncIterator[Api]:
    """A second server before the same database, or the first after a crash: it knows nothing of what is under way."""
    app = build_app(
        database=api.database,
        clock=api.clock,
        bridge=api.bridge,
        api_token=Secret(TOKEN),
        allowed_hosts=frozenset({"127.0.0.1"}),
        body_bytes_max=10_000,
        version="1.2.3",
    )
    runner, address = await start_server(app, "127.0.0.1:0")
    try:
        yield Api(api.session, f"http://{address}", api.database, api.bridge, api.clock)
    finally:
        await runner.cleanup()


async def test_a_start_is_recorded_before_the_provider_is_asked(api: Api) -> None:
    """A daemon that was killed in between, and another node, must not start a second run for the same key."""
    body = {"connection": "dify-prod", "trigger": {"workflow_id": "w"}}
    api.bridge.before_trigger = asyncio.Event()
    first = asyncio.create_task(api.call("POST", "/v1/runs", body, headers=KEY))
    await api.bridge.trigger_asked.wait()
    async with another_node(api) as other:
        meanwhile = await other.call("POST", "/v1/runs", body, headers=KEY)
        assert (meanwhile.status, meanwhile.headers["Idempotency-Replayed"]) == (502, "true")
        assert "provider_run_id" in meanwhile.body["detail"]
        wrong = await other.call("POST", "/v1/runs", {**body, "tags": ["x"]}, headers=KEY)
        assert (wrong.status, list(wrong.fields)) == (422, ["Idempotency-Key"])
        api.bridge.before_trigger.set()
        started = await first
        assert started.status == 201
        assert (await other.call("POST", "/v1/runs", body, headers=KEY)).content == started.content
    assert [what for what, _ in api.bridge.asked] == ["trigger"]


async def test_a_start_that_cannot_be_recorded_is_not_asked_for(sqlite_api: Api) -> None:
    body = {"connection": "dify-prod", "trigger": {"workflow_id": "w"}}
    write = sqlite_api.database.write

    async def refuse(_: object) -> None:
        raise StoreUnavailable("the disk is full")

    sqlite_api.database.write = refuse  # type: ignore[assignment, method-assign]
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)).status == 503
    sqlite_api.database.write = write  # type: ignore[method-assign]
    assert sqlite_api.bridge.asked == []
    assert (await sqlite_api.call("POST", "/v1/runs", body, headers=KEY)).status == 201
