"""The fake Retab, read by hand and by the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import retab
import retab.client
from retab.exceptions import AuthenticationError, NotFoundError

from bridge.domain.run import RunError
from bridge.sandbox import Sandbox, Scenario, Step
from bridge.sandbox.server import SANDBOX_KEY
from tests.support.manual_clock import ManualClock

WORDS = {
    "queued": "pending",
    "running": "running",
    "waiting": "awaiting_review",
    "succeeded": "completed",
    "failed": "error",
    "cancelled": "cancelled",
}


@pytest.fixture
def sdk(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[retab.Retab]:
    """The SDK swaps the ssl module's context class for the whole process; not in ours."""
    monkeypatch.setattr(retab.client.truststore, "inject_into_ssl", lambda: None)
    client = retab.Retab(api_key=SANDBOX_KEY, base_url=sandbox.url("retab"), max_retries=0, timeout=10)
    yield client
    client.client.close()


async def get(sandbox: Sandbox, client: aiohttp.ClientSession, path: str) -> Any:
    return await (await client.get(sandbox.url("retab") + path)).json()


@pytest.mark.parametrize(("status", "word"), WORDS.items())
async def test_the_official_sdk_reads_every_status(sandbox: Sandbox, sdk: retab.Retab, status: str, word: str) -> None:
    scenario = Scenario(None, steps=(Step(0, status),), error=RunError("it broke", code="E1", step="Extract"))
    run_id = sandbox.add_run("retab", scenario=scenario, metadata={"order": "42"}, age_s=5)
    run = await asyncio.to_thread(sdk.workflows.runs.get, run_id)
    assert (run.id, run.lifecycle.status, run.metadata) == (run_id, word, {"order": "42"})
    assert (run.timing.started_at is None) == (status == "queued")
    assert (run.timing.completed_at is not None) == (status in ("succeeded", "failed", "cancelled"))


async def test_the_official_sdk_lists_over_pages_newest_first(sandbox: Sandbox, sdk: retab.Retab) -> None:
    ids = [sandbox.add_run("retab", age_s=age_s) for age_s in (50, 40, 30, 20, 10)]
    listed = await asyncio.to_thread(lambda: [run.id for run in sdk.workflows.runs.list(limit=2)])
    assert listed == ids[::-1]


async def test_the_official_sdk_creates_cancels_and_reads_steps(
    sandbox: Sandbox, sdk: retab.Retab, clock: ManualClock
) -> None:
    runs = sdk.workflows.runs
    first = await asyncio.to_thread(lambda: runs.create("wf_1", json_inputs={"start": {"a": 1}}))
    cancelled = await asyncio.to_thread(runs.cancel, first.id)
    assert (cancelled.cancellation_status, cancelled.run.lifecycle.status) == ("cancelled", "cancelled")
    second = await asyncio.to_thread(runs.create, "wf_1")
    clock.advance(60)
    assert (await asyncio.to_thread(runs.cancel, second.id)).cancellation_status == "cancellation_failed"
    steps = await asyncio.to_thread(lambda: list(sdk.workflows.steps.list(run_id=second.id, limit=2)))
    assert [step.lifecycle.status for step in steps] == ["completed"] * 5
    assert steps[-1].handle_outputs["output-json-0"].data["invoice_number"] == "INV-2026-001"


async def test_the_official_sdk_sees_a_wrong_key_and_a_missing_run_as_such(sandbox: Sandbox, sdk: retab.Retab) -> None:
    with pytest.raises(NotFoundError, match="Workflow run not found"):
        await asyncio.to_thread(sdk.workflows.runs.get, "run_nobody")
    sdk.headers["Authorization"] = "Bearer wrong"
    with pytest.raises(AuthenticationError):
        await asyncio.to_thread(sdk.workflows.runs.get, "run_nobody")


async def test_the_older_api_key_header_is_taken_too(sandbox: Sandbox) -> None:
    run_id = sandbox.add_run("retab")
    async with aiohttp.ClientSession(headers={"Api-Key": SANDBOX_KEY}) as old:
        assert (await old.get(f"{sandbox.url('retab')}/v1/workflows/runs/{run_id}")).status == 200


async def test_generation_a_has_a_flat_status_and_outputs_inside(
    sandbox: Sandbox, client: aiohttp.ClientSession
) -> None:
    run_id = sandbox.add_run("retab", scenario=Scenario(15, output={"total": 1}), shape="a", age_s=15)
    body = await get(sandbox, client, f"/v1/workflows/runs/{run_id}")
    assert (body["status"], body["duration_ms"], body["error"]) == ("completed", 15000, None)
    assert body["final_outputs"] == {"end-1": {"label": "Output", "json_data": {"total": 1}}}
    assert "lifecycle" not in body
    assert await get(sandbox, client, f"/v1/workflows/runs/{run_id}/steps") == body["steps"]


@pytest.mark.parametrize(
    ("shape", "path"),
    [("a", "status"), ("b", "lifecycle.kind"), ("c-nested", "lifecycle.status"), ("c", "lifecycle.status")],
)
async def test_each_generation_keeps_status_and_review_word_in_its_own_place(
    sandbox: Sandbox, client: aiohttp.ClientSession, shape: str, path: str
) -> None:
    run_id = sandbox.add_run(
        "retab", scenario=Scenario(None, steps=(Step(0, "waiting"),)), shape=shape, workflow_id="wf_7"
    )
    found = body = await get(sandbox, client, f"/v1/workflows/runs/{run_id}")
    for key in path.split("."):
        found = found[key]
    assert found == ("awaiting_review" if shape.startswith("c") else "waiting_for_human")
    assert (body.get("workflow") or body)["workflow_id"] == "wf_7"


async def test_an_error_names_stage_block_and_code(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    scenario = Scenario(1, "failed", error=RunError("it broke", code="E1", step="Extract Data"))
    run_id = sandbox.add_run("retab", scenario=scenario, age_s=1)
    lifecycle = (await get(sandbox, client, f"/v1/workflows/runs/{run_id}"))["lifecycle"]
    assert (lifecycle["message"], lifecycle["stage"]) == ("it broke", "execution")
    assert (lifecycle["details"]["block_name"], lifecycle["details"]["error_code"]) == ("Extract Data", "E1")


async def test_the_list_filters_and_pages_backwards(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    done = [sandbox.add_run("retab", workflow_id="wf_1", age_s=age_s) for age_s in (40, 30, 20, 10)]
    sandbox.add_run("retab", workflow_id="wf_1")
    sandbox.add_run("retab", workflow_id="wf_2", metadata={"order": "42"}, age_s=99)
    runs = "/v1/workflows/runs"
    page = await get(sandbox, client, f"{runs}?workflow_id=wf_1&status=completed&before={done[0]}&limit=2")
    assert [run["id"] for run in page["data"]] == [done[2], done[1]]
    assert page["list_metadata"] == {"before": done[2], "after": done[1]}
    assert len((await get(sandbox, client, f'{runs}?metadata={{"order":"42"}}'))["data"]) == 1
    assert len((await get(sandbox, client, f"{runs}?exclude_status=completed"))["data"]) == 1
    assert len((await get(sandbox, client, f"{runs}?from_date=2026-01-16"))["data"]) == 0
    assert (await client.get(f"{sandbox.url('retab')}{runs}?after=x&before=y")).status == 422


async def test_a_deleted_run_is_gone_with_its_steps(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    run_id = sandbox.add_run("retab")
    url = f"{sandbox.url('retab')}/v1/workflows/runs/{run_id}"
    assert [(await client.delete(url)).status, (await client.get(url)).status] == [204, 404]
    assert (await get(sandbox, client, f"/v1/workflows/steps?run_id={run_id}"))["data"] == []
