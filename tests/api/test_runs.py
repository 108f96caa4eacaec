"""Runs over the API: list, show, wait, poll, cancel, stop watching."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from bridge.domain.errors import ProviderFailed, Unsupported
from bridge.domain.run import RunStatus
from bridge.domain.timestamps import format_instant
from tests.support.api_bridge import Api


async def test_lists_are_newest_first_and_pages_follow_the_cursor(api: Api) -> None:
    ids = [(await api.register(f"r-{n}"))["id"] for n in range(5)]
    seen: list[str] = []
    path = "/v1/runs?limit=2"
    for expected in (2, 2, 1):
        page = await api.call("GET", path)
        assert len(page.body["data"]) == expected
        seen += [run["id"] for run in page.body["data"]]
        path = f"/v1/runs?limit=2&cursor={page.body['next_cursor']}"
    assert page.body["next_cursor"] is None
    assert seen == ids[::-1]


async def test_a_run_added_meanwhile_does_not_shift_the_pages(api: Api) -> None:
    for n in range(4):
        await api.register(f"r-{n}")
    first = await api.call("GET", "/v1/runs?limit=2")
    await api.register("later")
    second = await api.call("GET", f"/v1/runs?limit=2&cursor={first.body['next_cursor']}")
    seen = [run["provider_run_id"] for run in first.body["data"] + second.body["data"]]
    assert seen == ["r-3", "r-2", "r-1", "r-0"]


async def test_filters_narrow_the_list_down(api: Api) -> None:
    wanted = await api.register("a", tags=["red", "blue"], workflow_id="flow")
    await api.register("b", connection="dify-test", tags=["red"])
    await api.finish((await api.register("c"))["id"])
    for query in (
        "tag=blue",
        "workflow_id=flow",
        "connection=dify-prod&status=queued",
        "tag=red&connection=dify-prod",
    ):
        found = await api.call("GET", f"/v1/runs?{query}")
        assert [run["id"] for run in found.body["data"]] == [wanted["id"]], query
    assert (await api.call("GET", "/v1/runs?status=lost")).body == {"data": [], "next_cursor": None}


async def test_runs_are_found_by_every_filter_of_the_contract(api: Api) -> None:
    api.clock.advance((datetime.now(UTC) - api.clock.now()).total_seconds())  # the time in ids is the real one
    after_one, after_two = (format_instant(api.clock.now() + timedelta(seconds=s)) for s in (30, 90))
    metadata = {"order": "A-1", "count": 5, "paid": True, "a.b": "dotted", "n": "5"}
    first = await api.register("alpha-1", metadata=metadata)
    api.clock.advance(60)
    second = await api.register("alpha-2", metadata={"order": "A-2"})
    await api.finish(second["id"])
    api.clock.advance(60)
    third = await api.register("Beta_3")
    await api.see(third["id"], RunStatus.WAITING)
    one, two, three = first["id"], second["id"], third["id"]
    for query, wanted in {
        "status=queued,succeeded": [two, one],
        "status=queued&status=waiting": [three, one],
        "state=open": [three, one],
        "state=settled": [two],
        "state=open&status=waiting,succeeded": [three],
        "state=settled&status=queued": [],
        "provider_run_id=alpha-2": [two],
        "q=alpha": [two, one],
        "q=Alpha": [],
        "q=Beta_": [three],
        "q=%25": [],
        f"q={one}": [one],
        "q=run_": [three, two, one],
        f"since={after_one}": [three, two],
        f"until={after_one}": [one],
        f"since={after_one}&until={after_two}": [two],
        "since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z": [three, two, one],
        "metadata.order=A-1": [one],
        "metadata.order=A-1&metadata.count=5": [one],
        "metadata.order=A-1&metadata.count=6": [],
        "metadata.paid=true": [one],
        "metadata.a.b=dotted": [one],
        "metadata.n=5&metadata.count=5": [one],
        "metadata.missing=": [],
    }.items():
        reply = await api.call("GET", f"/v1/runs?{query}")
        assert (query, [run["id"] for run in reply.body["data"]]) == (query, wanted)
    for query, field in {
        "metadata.%22=x": 'metadata."',
        "metadata.=x": "metadata.",
        "state=closed": "state",
        "since=yesterday": "since",
        "q=": "q",
    }.items():
        reply = await api.call("GET", f"/v1/runs?{query}")
        assert (reply.status, list(reply.fields)) == (422, [field]), query


UUID = "FB47B2E6-0b1c-4d5e-8f90-123456789ABC"


async def test_a_run_may_be_named_by_its_connection_and_the_providers_id(api: Api) -> None:
    run, odd = await api.register(UUID), await api.register("é b?#%:1")
    for name, wanted in {
        f"dify-prod:{UUID}": run,
        f"dify-prod:{UUID.lower()}": run,
        run["id"]: run,
        "dify-prod:" + quote("é b?#%:1", safe=""): odd,
    }.items():
        assert (await api.call("GET", f"/v1/runs/{name}")).body["id"] == wanted["id"], name
        assert (await api.call("GET", f"/v1/runs/{name}/wait?timeout=0")).body["id"] == wanted["id"]
        assert (await api.call("POST", f"/v1/runs/{name}/poll")).body["id"] == wanted["id"]
    assert api.bridge.asked[0] == ("poll_now", run["id"])
    for name in (f"dify-test:{UUID}", "dify-prod:none", "nope:x", "dify-prod:%00", ":x"):
        assert (await api.call("GET", f"/v1/runs/{name}")).status == 404
    assert (await api.call("DELETE", f"/v1/runs/dify-prod:{UUID}")).status == 204
    assert api.bridge.asked[-1] == ("forget", run["id"])


@pytest.mark.parametrize("spelling", [UUID.lower(), UUID.upper(), f"  {UUID}\t", f"\n{UUID} "])
async def test_blanks_and_capitals_make_no_second_run(api: Api, spelling: str) -> None:
    run = await api.register(UUID)
    again = await api.register(spelling)
    assert (again["id"], again["provider_run_id"]) == (run["id"], UUID.lower())


async def test_null_metadata_and_tags_mean_absent(api: Api) -> None:
    run = await api.register("x", metadata=None, tags=None)
    assert (run["metadata"], run["tags"]) == ({}, [])


async def test_one_run_comes_with_its_transitions_and_events(api: Api) -> None:
    run = await api.register()
    await api.finish(run["id"])
    shown = (await api.call("GET", f"/v1/runs/{run['id']}")).body
    assert [(t["from"], t["to"]) for t in shown["transitions"]] == [("queued", "running"), ("running", "succeeded")]
    assert [event["data"]["sequence"] for event in shown["events"]] == [1, 2, 3]
    assert shown["events"][-1]["type"] == "run.finished"
    assert shown["output"] == {"result": "fine"}
    assert shown["next_poll_at"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs/run_none"),
        ("GET", "/v1/runs/run_none/wait"),
        ("POST", "/v1/runs/run_none/poll"),
        ("POST", "/v1/runs/run_none/cancel"),
        ("DELETE", "/v1/runs/run_none"),
        ("GET", "/v1/runs/%00"),
        ("GET", "/v1/runs/..%2Fx"),
    ],
)
async def test_a_run_that_is_not_there_is_a_404(api: Api, method: str, path: str) -> None:
    assert (await api.call(method, path)).status == 404


async def test_waiting_ends_as_soon_as_the_run_is_settled(api: Api) -> None:
    run = await api.register()
    waiting = asyncio.create_task(api.call("GET", f"/v1/runs/{run['id']}/wait?timeout=60"))
    await api.see(run["id"], RunStatus.RUNNING)
    await api.see(run["id"], RunStatus.FAILED)
    reply = await waiting
    assert (reply.status, reply.body["status"]) == (200, "failed")


async def test_waiting_answers_with_the_present_state_at_the_timeout(sqlite_api: Api) -> None:
    run = await sqlite_api.register()
    reply = await sqlite_api.call("GET", f"/v1/runs/{run['id']}/wait?timeout=0.05")
    assert (reply.status, reply.body["status"]) == (200, "queued")


async def test_waiting_for_a_settled_run_answers_at_once(sqlite_api: Api) -> None:
    run = await sqlite_api.register()
    await sqlite_api.finish(run["id"])
    assert (await sqlite_api.call("GET", f"/v1/runs/{run['id']}/wait")).body["settled"] is True


@pytest.mark.slow
async def test_waiting_notices_a_run_that_no_commit_announced(sqlite_api: Api) -> None:
    """Another node may have settled it; the hint is only a hint."""
    run = await sqlite_api.register()
    sqlite_api.database.listeners.clear()
    waiting = asyncio.create_task(sqlite_api.call("GET", f"/v1/runs/{run['id']}/wait?timeout=60"))
    await sqlite_api.finish(run["id"])
    assert (await waiting).body["settled"] is True


async def test_polling_now_makes_the_run_due_and_shows_who_holds_it(api: Api) -> None:
    run = await api.register()
    api.clock.advance(5)
    reply = await api.call("POST", f"/v1/runs/{run['id']}/poll")
    assert (reply.status, reply.body["next_poll_at"]) == (202, "2026-01-15T10:30:05.000Z")
    assert api.bridge.asked == [("poll_now", run["id"])]


async def test_a_settled_run_is_neither_polled_nor_cancelled(api: Api) -> None:
    run = await api.register()
    await api.finish(run["id"])
    for what in ("poll", "cancel"):
        reply = await api.call("POST", f"/v1/runs/{run['id']}/{what}")
        assert (reply.status, "over (succeeded)" in reply.body["detail"]) == (409, True)
    assert api.bridge.asked == []


async def test_cancelling_asks_the_provider_and_looks_at_once(api: Api) -> None:
    """The run is cancelled when the provider says so, not before."""
    run = await api.register()
    reply = await api.call("POST", f"/v1/runs/{run['id']}/cancel")
    assert (reply.status, reply.body["status"]) == (202, "queued")
    assert api.bridge.asked == [("cancel", run["id"]), ("poll_now", run["id"])]


@pytest.mark.parametrize(("error", "status"), [(Unsupported("no such operation"), 409), (ProviderFailed("down"), 502)])
async def test_a_cancel_that_does_not_work_says_why(sqlite_api: Api, error: Unsupported, status: int) -> None:
    run = await sqlite_api.register()
    sqlite_api.bridge.refuses = error
    reply = await sqlite_api.call("POST", f"/v1/runs/{run['id']}/cancel")
    assert (reply.status, reply.body["detail"]) == (status, str(error))


async def test_a_deleted_run_is_gone_without_an_event_and_its_webhooks_with_it(api: Api) -> None:
    run = await api.register(webhook={"url": "https://app.example.org/x"})
    await api.see(run["id"], RunStatus.RUNNING)
    before = (await api.call("GET", "/v1/events")).body["data"]
    reply = await api.call("DELETE", f"/v1/runs/{run['id']}")
    assert (reply.status, reply.content) == (204, b"")
    assert api.bridge.asked == [("forget", run["id"])]
    assert (await api.call("GET", f"/v1/runs/{run['id']}")).status == 404
    assert (await api.call("GET", f"/v1/endpoints/{run['webhook']['id']}")).status == 404
    assert (await api.call("GET", "/v1/events")).body["data"] == before
    assert (await api.register())["id"] != run["id"]


async def test_the_providers_page_is_shown_with_the_run_and_not_in_its_events(api: Api) -> None:
    run = await api.register()
    await api.see(run["id"], RunStatus.RUNNING, link="https://jobs.example/7")
    shown = (await api.call("GET", f"/v1/runs/{run['id']}")).body
    assert (run["link"], shown["link"]) == (None, "https://jobs.example/7")
    assert "link" not in shown["events"][0]["data"]["run"]


async def test_lists_show_the_deliveries_of_each_run_and_event_if_they_are_asked_to(api: Api) -> None:
    await api.create_endpoint()
    run = await api.register("a")
    await api.register("b")
    await api.finish(run["id"])
    listed = (await api.call("GET", "/v1/runs?deliveries=true")).body["data"]
    assert {one["provider_run_id"]: one["deliveries"] for one in listed} == {"a": {"pending": 2}, "b": {}}
    told = (await api.call("GET", "/v1/events?deliveries=true&order=newest")).body["data"]
    assert [(one["type"], one["deliveries"]) for one in told[:1]] == [("run.finished", {"pending": 1})]
    for path in ("/v1/runs", "/v1/events"):
        assert all("deliveries" not in one for one in (await api.call("GET", path)).body["data"])
