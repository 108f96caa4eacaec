"""The fake Instabase."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from bridge.domain.run import RunError
from bridge.sandbox import Sandbox, Scenario, Step
from tests.support.manual_clock import ManualClock

WORDS = {
    "queued": "RUNNING",
    "running": "RUNNING",
    "waiting": "STOPPED_AT_CHECKPOINT",
    "PAUSED": "PAUSED",
    "succeeded": "COMPLETE",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
}


async def get(sandbox: Sandbox, client: aiohttp.ClientSession, path: str, **headers: str) -> Any:
    return await (await client.get(f"{sandbox.url('instabase')}/v2/apps/runs{path}", headers=headers)).json()


@pytest.mark.parametrize(("status", "word"), WORDS.items())
async def test_every_status_has_its_word_and_its_fields(
    sandbox: Sandbox, client: aiohttp.ClientSession, status: str, word: str
) -> None:
    scenario = Scenario(None, steps=(Step(0, status),), error=RunError("why"))
    run_id = sandbox.add_run("instabase", scenario=scenario, inputs={"batch_id": 4523, "tags": ["urgent"]})
    body = await get(sandbox, client, f"/{run_id}")
    assert (body["id"], body["status"], body["batch_id"], body["tags"]) == (run_id, word, 4523, ["urgent"])
    assert body["msg"] == ("why" if word in ("FAILED", "CANCELLED") else None)
    assert (body["finish_timestamp"] is None) == (word in ("RUNNING", "STOPPED_AT_CHECKPOINT", "PAUSED"))


async def test_times_are_whole_nanoseconds_that_no_float_could_hold(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    run_id = sandbox.add_run("instabase", run_id="a1b2c3d4-e5f6-7890-abcd-ef1234567890")
    started = (await get(sandbox, client, f"/{run_id}"))["start_timestamp"]
    assert started // 1000 == 1768473000123456
    assert int(float(started)) != started


async def test_results_come_in_pages_that_join_to_the_whole(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    files: list[Any] = [{"original_file_name": f"{n}.pdf", "documents": []} for n in range(5)]
    run_id = sandbox.add_run("instabase", scenario=Scenario(1, output={"files": files}), age_s=1)
    pages = [await get(sandbox, client, f"/{run_id}/results?file_offset={offset}") for offset in (0, 2, 4)]
    assert [page["has_more"] for page in pages] == [True, True, False]
    assert [file for page in pages for file in page["files"]] == files
    assert isinstance(pages[0]["batch_id"], str)


async def test_output_without_files_is_reported_as_the_fields_of_one_document(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    run_id = sandbox.add_run("instabase", scenario=Scenario(1, output={"total": 12.5}), age_s=1)
    results = await get(sandbox, client, f"/{run_id}/results")
    fields = results["files"][0]["documents"][0]["fields"]
    assert [(field["field_name"], field["value"]) for field in fields] == [("total", 12.5)]


async def test_an_unfinished_run_has_no_results(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    run_id = sandbox.add_run("instabase", scenario=Scenario(None))
    answer = await client.get(f"{sandbox.url('instabase')}/v2/apps/runs/{run_id}/results")
    assert (answer.status, list(await answer.json())) == (400, ["message"])


async def test_the_list_covers_the_last_day_unless_asked_and_goes_by_offset(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    old, middle, new = (sandbox.add_run("instabase", age_s=age_s) for age_s in (100_000, 2000, 1000))
    assert [run["id"] for run in (await get(sandbox, client, ""))["runs"]] == [new, middle]
    asked = f"?from_timestamp={int(clock.now().timestamp()) - 200_000}&limit=2&offset=1&status=COMPLETE&status=FAILED"
    assert [run["id"] for run in (await get(sandbox, client, asked))["runs"]] == [middle, old]


async def test_without_ib_context_an_organization_sees_nothing_and_a_wrong_one_is_401(
    clock: ManualClock, client: aiohttp.ClientSession
) -> None:
    async with Sandbox(clock=clock, ib_context="my-org") as sandbox:
        run_id = sandbox.add_run("instabase")
        url = f"{sandbox.url('instabase')}/v2/apps/runs/{run_id}"
        given: list[dict[str, str]] = [{"IB-Context": "my-org"}, {}, {"IB-Context": "other"}]
        assert [(await client.get(url, headers=headers)).status for headers in given] == [200, 404, 401]
        assert (await get(sandbox, client, ""))["runs"] == []
        assert len((await get(sandbox, client, "", **{"IB-Context": "my-org"}))["runs"]) == 1


@pytest.mark.parametrize(("path", "status"), [("/v2/apps/runs", 200), ("/v2/apps/deployments/dep-1/runs", 202)])
async def test_apps_and_deployments_are_run_with_their_own_status(
    sandbox: Sandbox, client: aiohttp.ClientSession, path: str, status: int
) -> None:
    url = sandbox.url("instabase") + path
    answer = await client.post(url, json={"app_id": "app-1", "batch_id": 7})
    run = await answer.json()
    assert (answer.status, run["status"], run["batch_id"]) == (status, "RUNNING", 7)
    assert run["deployment_id"] == ("dep-1" if status == 202 else "app-1")
    assert (await client.post(url, data=json.dumps({"app_id": "app-1"}))).status == 400


async def test_a_deleted_run_answers_with_jobs_and_is_gone(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    url = f"{sandbox.url('instabase')}/v2/apps/runs/{sandbox.add_run('instabase')}"
    assert [(await client.delete(url)).status, (await client.get(url)).status] == [202, 404]
