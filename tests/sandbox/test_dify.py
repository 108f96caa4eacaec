"""The fake Dify."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import pytest

from bridge.domain.run import RunError
from bridge.sandbox import Sandbox, Scenario, Step
from tests.support.manual_clock import ManualClock

WORDS = {
    "queued": "scheduled",
    "running": "running",
    "waiting": "paused",
    "succeeded": "succeeded",
    "partial": "partial-succeeded",
    "failed": "failed",
    "cancelled": "stopped",
}
ASK = {"inputs": {"query": "hello"}, "response_mode": "streaming", "user": "someone"}


async def detail(sandbox: Sandbox, client: aiohttp.ClientSession, run_id: str) -> Any:
    return await (await client.get(f"{sandbox.url('dify')}/workflows/run/{run_id}")).json()


@pytest.mark.parametrize(("status", "word"), WORDS.items())
async def test_every_status_has_its_word_and_its_fields(
    sandbox: Sandbox, client: aiohttp.ClientSession, status: str, word: str
) -> None:
    is_over, has_outputs = status not in ("queued", "running", "waiting"), status in ("succeeded", "partial")
    scenario = Scenario(None, steps=(Step(0, status),), output={"result": "x"}, error=RunError("why"))
    run_id = sandbox.add_run("dify", scenario=scenario, inputs={"query": "é"}, workflow_id="w")
    body = await detail(sandbox, client, run_id)
    assert (body["id"], body["workflow_id"], body["status"]) == (run_id, "w", word)
    assert json.loads(body["inputs"]) == {"query": "é"}
    assert body["outputs"] == ({"result": "x"} if has_outputs else {})
    assert body["error"] == ("why" if is_over and status != "succeeded" else None)
    assert (body["created_at"], body["finished_at"]) == (1768473000, 1768473000 if is_over else None)


async def test_old_servers_show_outputs_as_text_or_null(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    run_id = sandbox.add_run("dify", scenario=Scenario(5, output={"result": "x"}), shape="old")
    assert (await detail(sandbox, client, run_id))["outputs"] is None
    clock.advance(5)
    assert json.loads((await detail(sandbox, client, run_id))["outputs"]) == {"result": "x"}


async def test_one_server_generation_reported_times_as_email_dates(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    run_id = sandbox.add_run("dify", scenario=Scenario(5), shape="rfc822", age_s=5)
    assert (await detail(sandbox, client, run_id))["finished_at"].startswith("Thu, 15 Jan 2026 10:30:00")


async def test_a_missing_run_is_404_today_and_was_200_with_nulls(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    url = f"{sandbox.url('dify')}/workflows/run/{uuid.uuid4()}"
    answer = await client.get(url)
    assert (answer.status, await answer.json()) == (
        404,
        {"code": "not_found", "message": "Workflow run not found.", "status": 404},
    )
    sandbox.state.dify_missing_is_null = True
    answer = await client.get(url)
    body = await answer.json()
    assert (answer.status, body["id"], body["status"], body["total_steps"]) == (200, None, None, 0)


async def test_an_old_run_that_is_not_visible_yet_is_200_with_nulls(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    run_id = sandbox.add_run("dify", shape="old", late_404_s=2)
    assert (await detail(sandbox, client, run_id))["id"] is None
    clock.advance(2)
    assert (await detail(sandbox, client, run_id))["id"] == run_id


async def test_a_streamed_run_shows_its_ids_first_and_ends_with_workflow_finished(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    async with client.post(f"{sandbox.url('dify')}/workflows/run", json=ASK) as answer:
        first = json.loads((await answer.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        assert (first["event"], answer.content_type) == ("workflow_started", "text/event-stream")
        assert (await detail(sandbox, client, first["workflow_run_id"]))["status"] == "running"
        clock.advance(60)
        events = [json.loads(part.removeprefix("data: ")) for part in (await answer.text()).split("\n\n") if part]
    assert [event["event"] for event in events].count("node_finished") == 5
    assert (events[-1]["event"], events[-1]["data"]["status"]) == ("workflow_finished", "succeeded")
    assert events[-1]["data"]["id"] == first["workflow_run_id"]


async def test_a_run_goes_on_when_the_caller_drops_the_stream(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    async with client.post(f"{sandbox.url('dify')}/workflows/run", json=ASK) as answer:
        first = json.loads((await answer.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        answer.close()
    clock.advance(60)
    assert (await detail(sandbox, client, first["workflow_run_id"]))["status"] == "succeeded"


async def test_a_stream_ends_at_a_pause_and_stop_takes_the_task_id(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    sandbox.set_triggered_scenario("dify", Scenario(None, steps=(Step(0, "waiting"),)))
    text = await (await client.post(f"{sandbox.url('dify')}/workflows/run", json=ASK)).text()
    first, last = (json.loads(part.removeprefix("data: ")) for part in text.strip().split("\n\n"))
    assert (last["event"], last["data"]["status"]) == ("workflow_paused", "paused")
    stop = f"{sandbox.url('dify')}/workflows/tasks/{first['task_id']}/stop"
    assert await (await client.post(stop, json={"user": "someone"})).json() == {"result": "success"}
    body = await detail(sandbox, client, first["workflow_run_id"])
    assert (body["status"], bool(body["error"])) == ("stopped", True)


async def test_a_blocking_run_answers_once_it_is_over(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    sandbox.set_triggered_scenario("dify", Scenario(30, output={"result": "x"}))
    url = f"{sandbox.url('dify')}/workflows/0f4cd9c6-3b30-44c2-a1bb-6f4a4d5d7a55/run"
    asked = asyncio.create_task(client.post(url, json={**ASK, "response_mode": "blocking"}))
    while not sandbox.state.runs:
        await asyncio.sleep(0)
    clock.advance(30)
    body = await (await asked).json()
    assert body["data"]["outputs"] == {"result": "x"}
    assert body["data"]["workflow_id"] == "0f4cd9c6-3b30-44c2-a1bb-6f4a4d5d7a55"
    assert body["workflow_run_id"] == body["data"]["id"]


@pytest.mark.parametrize("body", [{}, {"inputs": {}}, {"inputs": [], "user": "x"}])
async def test_a_run_needs_inputs_and_user(
    sandbox: Sandbox, client: aiohttp.ClientSession, body: dict[str, object]
) -> None:
    answer = await client.post(f"{sandbox.url('dify')}/workflows/run", json=body)
    assert (answer.status, (await answer.json())["code"]) == (400, "invalid_param")


async def test_the_log_is_paged_and_its_items_are_not_the_runs(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    ids = [sandbox.add_run("dify", age_s=age_s) for age_s in (30, 20, 10)]
    sandbox.add_run("dify", scenario=Scenario(None))
    logs = f"{sandbox.url('dify')}/workflows/logs"
    page = await (await client.get(f"{logs}?status=succeeded&limit=2")).json()
    assert [item["workflow_run"]["id"] for item in page["data"]] == [ids[2], ids[1]]
    assert (page["total"], page["has_more"], page["data"][0]["id"] != ids[2]) == (3, True, True)
    assert (await (await client.get(f"{logs}?status=succeeded&limit=2&page=2")).json())["has_more"] is False
    assert (await client.get(f"{logs}?status=running")).status == 400
