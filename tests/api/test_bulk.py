"""Bulk operations: what a filter selects is counted first, then handled part by part."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.api import bulk
from bridge.domain.delivery import DeliveryState
from bridge.domain.errors import ProviderRefused
from tests.api.test_deliveries import fail_once
from tests.support.api_bridge import Api


async def exhausted(api: Api, number: int) -> dict[str, Any]:
    """An endpoint, and so many runs whose deliveries to it are exhausted."""
    endpoint = await api.create_endpoint(events=["run.finished"])
    for one in range(number):
        await api.finish((await api.register(f"x-{one}"))["id"])
    await fail_once(api, DeliveryState.EXHAUSTED)
    return dict(endpoint)


async def states(api: Api) -> list[str]:
    """The state of each delivery, newest first."""
    return [one["state"] for one in (await api.call("GET", "/v1/deliveries")).body["data"]]


async def test_deliveries_of_a_filter_are_counted_and_then_sent_again(api: Api) -> None:
    endpoint = await exhausted(api, 3)
    wanted = {"state": "exhausted", "endpoint": endpoint["id"]}
    counted = await api.call("POST", "/v1/deliveries/retry", {**wanted, "dry_run": True})
    assert (counted.status, counted.body) == (200, {"count": 3, "is_exact": True})
    assert await states(api) == ["exhausted"] * 3
    done = await api.call("POST", "/v1/deliveries/retry", wanted)
    assert (done.status, done.body) == (202, {"count": 3, "skipped": 0, "errors": [], "next_cursor": None})
    assert await states(api) == ["pending"] * 3


async def test_named_deliveries_alone_are_sent_again(api: Api) -> None:
    await exhausted(api, 3)
    named = (await api.call("GET", "/v1/deliveries")).body["data"][1]["id"]
    assert (await api.call("POST", "/v1/deliveries/retry", {"ids": [named]})).body["count"] == 1
    assert await states(api) == ["exhausted", "pending", "exhausted"]


async def test_each_part_is_bounded_and_the_cursor_continues(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PART_MAX", 2)
    await exhausted(api, 3)
    first = (await api.call("POST", "/v1/deliveries/retry", {"state": "exhausted"})).body
    assert (first["count"], await states(api)) == (2, ["pending", "pending", "exhausted"])
    wanted = {"state": "exhausted", "cursor": first["next_cursor"]}
    assert (await api.call("POST", "/v1/deliveries/retry", wanted)).body["next_cursor"] is None
    assert await states(api) == ["pending"] * 3


async def test_deliveries_to_an_endpoint_that_is_off_are_left_alone(api: Api) -> None:
    endpoint = await exhausted(api, 2)
    await api.call("POST", f"/v1/endpoints/{endpoint['id']}/disable", {})
    done = (await api.call("POST", "/v1/deliveries/retry", {"state": "exhausted"})).body
    assert (done["count"], done["skipped"], await states(api)) == (0, 2, ["exhausted"] * 2)


@pytest.mark.parametrize("path", ["deliveries/retry", "runs/stop", "runs/cancel"])
async def test_nothing_is_done_to_everything_at_once(sqlite_api: Api, path: str) -> None:
    refused = await sqlite_api.call("POST", f"/v1/{path}", {"dry_run": False})
    assert refused.status == 422
    assert "at least one filter" in refused.body["detail"]


async def test_open_runs_of_a_filter_are_no_longer_watched_and_settled_ones_stay(api: Api) -> None:
    kept = await api.register("kept", tags=["old"])
    await api.finish(kept["id"])
    gone = [(await api.register(name, tags=["old"]))["id"] for name in ("one", "two")]
    other = await api.register("other", tags=["new"])
    assert (await api.call("POST", "/v1/runs/stop", {"tag": "old", "dry_run": True})).body["count"] == 2
    done = (await api.call("POST", "/v1/runs/stop", {"tag": "old"})).body
    assert (done["count"], done["next_cursor"]) == (2, None)
    left = [run["id"] for run in (await api.call("GET", "/v1/runs")).body["data"]]
    assert left == [other["id"], kept["id"]]
    assert [what for what in api.bridge.asked if what[0] == "forget"] == [("forget", run) for run in reversed(gone)]


async def test_a_settled_state_selects_no_run_to_stop(sqlite_api: Api) -> None:
    run = await sqlite_api.register()
    await sqlite_api.finish(run["id"])
    assert (await sqlite_api.call("POST", "/v1/runs/stop", {"state": "settled"})).body["count"] == 0
    assert (await sqlite_api.call("GET", f"/v1/runs/{run['id']}")).status == 200


async def test_runs_are_cancelled_and_a_refusal_names_its_run(api: Api) -> None:
    run = await api.register(workflow_id="w")
    assert (await api.call("POST", "/v1/runs/cancel", {"workflow_id": "w"})).body["count"] == 1
    assert ("cancel", run["id"]) in api.bridge.asked
    assert ("poll_now", run["id"]) in api.bridge.asked
    api.bridge.refuses = ProviderRefused("the provider says no")
    done = (await api.call("POST", "/v1/runs/cancel", {"ids": [run["id"]]})).body
    assert (done["count"], done["errors"]) == (0, [{"id": run["id"], "message": "the provider says no"}])


async def test_replays_are_listed_by_endpoint_and_state(sqlite_api: Api) -> None:
    endpoint = await exhausted(sqlite_api, 1)
    body = {"since": "2020-01-01T00:00:00Z"}
    made = (await sqlite_api.call("POST", f"/v1/endpoints/{endpoint['id']}/replay", body)).body
    for query, found in (
        (f"endpoint={endpoint['id']}&state=running", [made["id"]]),
        ("state=cancelled", []),
        ("endpoint=x", []),
    ):
        listed = (await sqlite_api.call("GET", f"/v1/replays?{query}")).body["data"]
        assert [one["id"] for one in listed] == found
