"""The fake Dibby."""

from __future__ import annotations

import aiohttp
import pytest

from bridge.domain.run import RunError
from bridge.sandbox import Sandbox, Scenario, Step
from tests.support.manual_clock import ManualClock


@pytest.mark.parametrize(
    ("age_s", "status", "completed", "output"),
    [(0, "PENDING", 0, None), (1, "RUNNING", 0, None), (6, "RUNNING", 2, None), (10, "FINISHED", 5, {"total": 1})],
)
async def test_a_run_goes_through_its_life(
    sandbox: Sandbox, client: aiohttp.ClientSession, age_s: int, status: str, completed: int, output: object
) -> None:
    run_id = sandbox.add_run(
        "dibby", scenario=Scenario(10, steps=(Step(1, "running"),), output={"total": 1}), age_s=age_s
    )
    answer = await client.get(f"{sandbox.url('dibby')}/runs/{run_id}")
    body = await answer.json()
    assert (answer.status, body.pop("createdAt")[:8]) == (200, "2026-01-")
    assert body == {
        "id": run_id,
        "versionName": "1.0",
        "status": status,
        "steps": 5,
        "stepsCompleted": completed,
        "output": output,
    }


async def test_a_failed_run_alone_has_an_error(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    scenario = Scenario(10, "failed", error=RunError("Failed to process document", step="Document Extractor"))
    run_id = sandbox.add_run("dibby", scenario=scenario, age_s=10)
    body = await (await client.get(f"{sandbox.url('dibby')}/runs/{run_id}")).json()
    assert (body["status"], body["output"]) == ("FAILED", None)
    assert body["error"] == {"message": "Failed to process document", "step": "Document Extractor"}


@pytest.mark.parametrize("key", ["workflowId", "worfklowId"])
async def test_a_triggered_run_lives_what_was_set(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock, key: str
) -> None:
    sandbox.set_triggered_scenario("dibby", Scenario(2, output={"done": True}))
    answer = await client.post(f"{sandbox.url('dibby')}/runs", json={key: "wf-1", "inputs": {}})
    run = await answer.json()
    assert (answer.status, run["status"]) == (201, "RUNNING")
    clock.advance(2)
    assert (await (await client.get(f"{sandbox.url('dibby')}/runs/{run['id']}")).json())["output"] == {"done": True}


async def test_a_trigger_without_workflow_is_refused(sandbox: Sandbox, client: aiohttp.ClientSession) -> None:
    assert (await client.post(f"{sandbox.url('dibby')}/runs", data=b"[1")).status == 400


async def test_while_it_waits_it_says_running_and_progress_stands_still(
    sandbox: Sandbox, client: aiohttp.ClientSession, clock: ManualClock
) -> None:
    """Dibby has no word for its human validation."""
    scenario = Scenario(100, steps=(Step(0, "running"), Step(50, "waiting")))
    run_id = sandbox.add_run("dibby", scenario=scenario, age_s=50)
    before = await (await client.get(f"{sandbox.url('dibby')}/runs/{run_id}")).json()
    clock.advance(40)
    after = await (await client.get(f"{sandbox.url('dibby')}/runs/{run_id}")).json()
    assert before == after
    assert (after["status"], after["stepsCompleted"]) == ("RUNNING", 2)
