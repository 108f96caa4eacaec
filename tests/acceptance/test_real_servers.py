"""Definitions of the catalogue against the real servers: runs that succeed, fail, are cancelled, wait and are discovered.

The quick ones are part of `make test`; `make test-servers` runs all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.sandbox import Receiver
from tests.support.daemon_process import DaemonProcess
from tests.support.real_servers import FLOWER_KEY, airflow, airflow_token, buildbot, dagster, flower, prefect

WAIT_S = 300  # the last of four runs, on a busy machine
ENDS = {"good": "succeeded", "bad": "failed", "slow": "cancelled", "found": "succeeded"}


async def ends(
    tmp_path: Path,
    connection: dict[str, Any],
    starts: dict[str, tuple[str, Any]],
    elsewhere: Callable[[], Awaitable[object]],
    resume: Callable[[str], Awaitable[object]] | None = None,
    held_as: tuple[str, str] = ("waiting", ""),
) -> dict[str, dict[str, Any]]:
    """The settled runs by name: those of `starts`, of which `slow` is cancelled, and `found`, which the list showed.

    A run `asks` is seen with the status and the provider's word `held_as`. It goes on when `resume` is called with its id
    at the provider; without `resume` it is cancelled.
    """
    async with Receiver() as receiver:
        daemon = DaemonProcess(tmp_path)
        daemon.config["connections"] = {"c": {**connection, "discover": True, "timeout": "5m"}}
        daemon.add_endpoint("app", receiver.url("/app"))
        receiver.add_secret(daemon.config["endpoints"]["app"]["secret"], path="/app")
        async with daemon:
            checked = await daemon.ask("POST", "/v1/connections/c/check")
            assert checked["ok"] or "answers alike with a wrong key" in checked["detail"], (
                "a server without keys says so"
            )
            names, ids = {}, {}
            for name, (workflow, inputs) in starts.items():
                trigger = {"workflow_id": workflow, "inputs": inputs}
                code, _, answer = await daemon.call("POST", "/v1/runs", {"connection": "c", "trigger": trigger})
                assert code in (200, 201), answer  # 200 where the list showed it before its start was answered
                run = json.loads(answer)
                names[run["id"]], ids[name] = name, run["id"]
            await daemon.eventually(f"/v1/runs/{ids['slow']}", is_under_way, timeout_s=WAIT_S)
            await daemon.ask("POST", f"/v1/runs/{ids['slow']}/cancel", status=202)
            if "asks" in ids:
                asked = await daemon.eventually(
                    f"/v1/runs/{ids['asks']}", lambda run: is_held(run, *held_as), timeout_s=WAIT_S
                )
                if resume is None:
                    await daemon.ask("POST", f"/v1/runs/{ids['asks']}/cancel", status=202)
                else:
                    await resume(asked["provider_run_id"])
            await elsewhere()
            await receiver.wait_for(
                lambda got: sum(one.type == "run.finished" for one in got) >= len(starts) + 1, WAIT_S
            )
            metrics = (await daemon.call("GET", "/metrics"))[2].decode()
            await daemon.stop()
    assert 'runbridge_lists_total{connection="c",outcome="shown"}' in metrics
    runs = [one.event["data"]["run"] for one in receiver.received if one.type == "run.finished"]
    return {names.get(run["id"], "found"): run for run in runs}


def is_held(run: dict[str, Any], status: str, word: str) -> bool:
    """Whether the run was seen with that status at the provider; before its first poll every run is queued."""
    return bool(run["status"] == status and run["provider_status"] and word in run["provider_status"])


def is_under_way(run: dict[str, Any]) -> bool:
    """Whether the run can be cancelled; Dagster refuses that while a run starts."""
    return bool(run["status"] == "running" and run["provider_status"] != "STARTING")


def statuses(runs: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: run["status"] for name, run in runs.items()}


async def post(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    """The answer to a POST; a server whose SQLite is busy is asked again."""
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.timeout(WAIT_S):
        while True:
            async with session.post(url, json=body) as response:
                if response.status in (200, 201):
                    return await response.json(content_type=None)
                assert response.status in (500, 503), await response.text()
            await asyncio.sleep(1)


async def got(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()


def served(tmp_path: Path, server: Any) -> AbstractAsyncContextManager[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    return server(folder)


@pytest.mark.slow
async def test_celery_tasks_by_flower(tmp_path: Path) -> None:
    async with served(tmp_path, flower) as url:
        found = await ends(
            tmp_path,
            {"provider": "flower", "base_url": url, "api_key": "user:secret"},
            {"good": ("tasks.add", {"x": 1, "y": 2}), "bad": ("tasks.fail", {}), "slow": ("tasks.sleep", {})},
            lambda: post(f"{url}/api/task/async-apply/tasks.add", {}, FLOWER_KEY),
        )
    assert statuses(found) == ENDS
    assert found["good"]["output"] == "3"
    assert found["bad"]["error"]["message"] == "ValueError('no paper')"


@pytest.mark.slow
async def test_build_requests_of_buildbot(tmp_path: Path) -> None:
    async with served(tmp_path, buildbot) as url:
        force = {"jsonrpc": "2.0", "id": 1, "method": "force", "params": {}}
        found = await ends(
            tmp_path,
            {"provider": "buildbot", "base_url": url},
            {name: (f"force-{name}", {}) for name in ("good", "bad", "slow", "asks")},
            lambda: post(f"{url}/api/v2/forceschedulers/force-good", force),
            held_as=("queued", "unclaimed"),
        )
    assert statuses(found) == ENDS | {"asks": "cancelled"}
    assert {name: run["provider_status"] for name, run in found.items()}["bad"] == "failure"
    assert found["good"]["output"][0]["state_string"] == "build successful"


@pytest.mark.servers
async def test_flow_runs_of_prefect(tmp_path: Path) -> None:
    async with served(tmp_path, prefect) as url:
        names = ("good", "bad", "slow", "asks")
        known = {name: (await got(f"{url}/deployments/name/{name}/{name}"))["id"] for name in names}
        found = await ends(
            tmp_path,
            {"provider": "prefect", "base_url": url, "api_key": "none-needed"},
            {name: (known[name], {}) for name in names},
            lambda: post(f"{url}/deployments/{known['good']}/create_flow_run", {"parameters": {"n": 2}}),
            lambda run: post(f"{url}/flow_runs/{run}/resume", {}),
        )
    assert statuses(found) == ENDS | {"asks": "succeeded"}
    assert "no paper" in found["bad"]["error"]["message"]


@pytest.mark.servers
async def test_runs_of_dagster(tmp_path: Path) -> None:
    launch = {
        "query": "mutation L($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }",
        "variables": {
            "p": {
                "selector": {
                    "repositoryName": "__repository__", "repositoryLocationName": "jobs.py", "jobName": "good",
                }
            }
        },
    }  # fmt: skip
    async with served(tmp_path, dagster) as url:
        found = await ends(
            tmp_path,
            {"provider": "dagster", "base_url": url, "api_key": "none-needed", "vars": {"location": "jobs.py"}},
            {name: (name, {}) for name in ("good", "bad", "slow", "asks")},
            lambda: post(f"{url}/graphql", launch),
            held_as=("queued", "QUEUED"),
        )
    assert statuses(found) == ENDS | {"asks": "cancelled"}


@pytest.mark.servers
async def test_dag_runs_of_airflow(tmp_path: Path) -> None:
    async def elsewhere() -> None:
        key = {"Authorization": f"Bearer {await airflow_token(url)}"}
        await post(f"{url}/api/v2/dags/good/dagRuns", {"logical_date": None}, key)

    async def resume(_run: str) -> None:
        key = {"Authorization": f"Bearer {await airflow_token(url)}"}
        change = {"url": f"{url}/api/v2/dags/asks", "json": {"is_paused": False}}
        async with aiohttp.ClientSession(headers=key) as session, session.patch(**change) as response:
            assert response.status == 200, await response.text()

    async with served(tmp_path, airflow) as url:
        found = await ends(
            tmp_path,
            {"provider": "airflow", "base_url": url, "api_key": "secret", "vars": {"user": "admin"}},
            {name: (name, {"logical_date": None, "conf": {}}) for name in ("good", "bad", "slow", "asks")},
            elsewhere,
            resume,
            ("queued", "queued"),
        )
    ended = ENDS | {"slow": "failed", "asks": "succeeded"}
    assert statuses(found) == ended, "Airflow calls a run that a person ends failed"
    assert found["found"]["workflow_id"] == "good"
