"""Definitions of the catalogue against the real servers: runs that succeed, fail, are cancelled and are discovered."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.sandbox import Receiver
from tests.support.daemon_process import DaemonProcess
from tests.support.real_servers import FLOWER_KEY, buildbot, flower

WAIT_S = 90


async def ends(
    tmp_path: Path, connection: dict[str, Any], starts: dict[str, tuple[str, dict[str, Any]]], elsewhere: Any
):
    """The settled runs by name: those of `starts`, of which `slow` is cancelled, and `found`, which the list showed."""
    async with Receiver() as receiver:
        daemon = DaemonProcess(tmp_path)
        daemon.config["connections"] = {"c": {**connection, "discover": True}}
        daemon.add_endpoint("app", receiver.url("/app"))
        receiver.add_secret(daemon.config["endpoints"]["app"]["secret"], path="/app")
        async with daemon:
            checked = await daemon.ask("POST", "/v1/connections/c/check")
            assert checked["ok"], checked
            ids = {}
            for name, (workflow, inputs) in starts.items():
                trigger = {"workflow_id": workflow, "inputs": inputs}
                run = await daemon.ask("POST", "/v1/runs", {"connection": "c", "trigger": trigger}, status=201)
                ids[run["id"]] = name
            slow = next(run for run, name in ids.items() if name == "slow")
            await daemon.eventually(f"/v1/runs/{slow}", lambda run: run["status"] == "running")
            await daemon.ask("POST", f"/v1/runs/{slow}/cancel", status=202)
            await elsewhere()
            await receiver.wait_for(
                lambda got: sum(one.type == "run.finished" for one in got) >= len(starts) + 1, WAIT_S
            )
            metrics = (await daemon.call("GET", "/metrics"))[2].decode()
            await daemon.stop()
    assert 'runbridge_lists_total{connection="c",outcome="shown"}' in metrics
    runs = [one.event["data"]["run"] for one in receiver.received if one.type == "run.finished"]
    return {ids.get(run["id"], "found"): run for run in runs}


async def post(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=body) as response:
        assert response.status == 200, await response.text()


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
    assert {name: run["status"] for name, run in found.items()} == {
        "good": "succeeded", "bad": "failed", "slow": "cancelled", "found": "succeeded",
    }  # fmt: skip
    assert found["good"]["output"] == "3"
    assert found["bad"]["error"]["message"] == "ValueError('no paper')"


@pytest.mark.slow
async def test_build_requests_of_buildbot(tmp_path: Path) -> None:
    async with served(tmp_path, buildbot) as url:
        force = {"jsonrpc": "2.0", "id": 1, "method": "force", "params": {}}
        found = await ends(
            tmp_path,
            {"provider": "buildbot", "base_url": url},
            {name: (f"force-{name}", {}) for name in ("good", "bad", "slow")},
            lambda: post(f"{url}/api/v2/forceschedulers/force-good", force),
        )
    assert {name: run["status"] for name, run in found.items()} == {
        "good": "succeeded", "bad": "failed", "slow": "cancelled", "found": "succeeded",
    }  # fmt: skip
    assert {name: run["provider_status"] for name, run in found.items()}["bad"] == "failure"
    assert found["good"]["output"][0]["state_string"] == "build successful"
