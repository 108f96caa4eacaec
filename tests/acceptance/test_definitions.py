"""A provider in a definition file, from outside: its runs are started, listed, polled, reported and cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.sandbox import Receiver
from tests.support.daemon_process import DaemonProcess
from tests.support.foreign_server import foreign_server

DEFINITION = """\
schema = 1
name = "jobs"
version = "1.2.0"
auth = { header = "X-Key" }
[vars]
team = { required = true, about = "the team that owns the jobs" }
[run]
get = "/{team}/jobs/{id}"
id = "int"
[read]
status = "state"
id = "id"
workflow = "flow"
output = { path = "result", decode = "json" }
error = { message = "why", code = "code" }
progress = { completed = "done", total = "all" }
[status]
queued = ["NEW"]
running = ["RUN"]
waiting = ["ASK"]
succeeded = ["OK"]
failed = ["BAD"]
cancelled = ["STOPPED"]
[list]
get = "/{team}/jobs"
items = "jobs"
id = "id"
next = { page = "page", step = 50 }
[trigger]
post = "/{team}/jobs"
body = { flow = "{workflow}", input = "{inputs}" }
run_from = "id"
[cancel]
post = "/{team}/jobs/{id}/stop"
[check]
get = "/{team}"
"""


class Jobs:
    """A job server with a pace of its own."""

    def __init__(self) -> None:
        self.jobs: dict[int, dict[str, Any]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        if request.headers.get("X-Key") != "key-of-jobs":
            return web.json_response({"message": "who are you"}, status=401)
        match request.method, request.path.strip("/").split("/")[1:]:
            case "GET", []:
                return web.json_response({"name": "team"})
            case "POST", ["jobs"]:
                sent = await request.json()
                return web.json_response(self.add(sent["flow"], result=f'{{"got": {sent["input"]["n"]}}}'), status=201)
            case "GET", ["jobs"]:
                return web.json_response({"jobs": [self.shown(number) for number in sorted(self.jobs, reverse=True)]})
            case "POST", ["jobs", number, "stop"]:
                self.jobs[int(number)]["state"] = "STOPPED"
                return web.Response(status=204)
            case "GET", ["jobs", number] if int(number) in self.jobs:
                return web.json_response(self.shown(int(number)))
        return web.json_response({"message": "no such job"}, status=404)

    def add(self, flow: str, *, state: str = "RUN", lasts_s: float = 2.0, **more: Any) -> dict[str, Any]:
        number = len(self.jobs) + 1
        ends_at = asyncio.get_running_loop().time() + lasts_s
        self.jobs[number] = {
            "id": number,
            "state": state,
            "flow": flow,
            "done": 1,
            "all": 2,
            "ends_at": ends_at,
            **more,
        }
        return self.shown(number)

    def shown(self, number: int) -> dict[str, Any]:
        job = self.jobs[number]
        if job["state"] == "RUN" and asyncio.get_running_loop().time() >= job["ends_at"]:
            job["state"] = "BAD" if "why" in job else "OK"
        return {name: value for name, value in job.items() if name != "ends_at"}


@pytest.mark.slow
async def test_a_provider_that_is_a_file_does_what_one_in_code_does(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/jobs.toml").write_text(DEFINITION)
    jobs = Jobs()
    async with foreign_server(jobs.handle) as server, Receiver() as receiver:
        daemon = DaemonProcess(tmp_path)
        daemon.config["connections"] = {
            "j": {
                "provider": "jobs", "base_url": server.url, "api_key": "key-of-jobs",
                "vars": {"team": "a team"}, "discover": True,
            }
        }  # fmt: skip
        daemon.add_endpoint("app", receiver.url("/app"))
        receiver.add_secret(daemon.config["endpoints"]["app"]["secret"], path="/app")
        async with daemon:
            checked = await daemon.ask("POST", "/v1/connections/j/check")
            assert checked["ok"], checked
            started = await daemon.ask(
                "POST", "/v1/runs",
                {"connection": "j", "trigger": {"workflow_id": "double", "inputs": {"n": 21}}}, status=201,
            )  # fmt: skip
            failing = jobs.add("break", why="out of paper", code=17)
            await daemon.register("j", str(failing["id"]))
            endless = jobs.add("endless", lasts_s=1000)
            watched = await daemon.register("j", str(endless["id"]))
            jobs.add("found", lasts_s=4)
            await receiver.wait_for(lambda got: sum(one.type == "run.finished" for one in got) >= 3, 60)
            await daemon.ask("POST", f"/v1/runs/{watched['id']}/cancel", status=202)
            await receiver.wait_for(lambda got: sum(one.type == "run.finished" for one in got) >= 4, 60)
            odd = await daemon.register("j", str(jobs.add("odd", state="HUH")["id"]))
            bare = await daemon.register("j", str(jobs.add("bare", state=None)["id"]))
            shown = await daemon.eventually("/v1/connections/j", lambda found: len(found["remarks"]) >= 2)
            assert {remark["message"] for remark in shown["remarks"]} == {
                "the status 'HUH' is not known", "read.status finds nothing in the answer",
            }  # fmt: skip
            assert shown["definition"]["name"] == "jobs"
            for watched_still in (odd, bare):
                run = await daemon.ask("GET", f"/v1/runs/{watched_still['id']}")
                assert (run["status"], run["settled"]) == ("unknown", False), "it stays watched"
                assert run["definition"]["version"] == "1.2.0"
            metrics = (await daemon.call("GET", "/metrics"))[2].decode()
            assert 'runbridge_definition_remarks_total{connection="j"}' in metrics
            await daemon.stop()
    ends = {
        one.event["data"]["run"]["workflow_id"]: one.event["data"]["run"]
        for one in receiver.received
        if one.type == "run.finished"
    }
    assert {name: run["status"] for name, run in ends.items()} == {
        "double": "succeeded", "break": "failed", "endless": "cancelled", "found": "succeeded",
    }  # fmt: skip
    assert started["provider_run_id"] == "1"
    assert ends["double"]["output"] == {"got": 21}
    assert ends["break"]["error"] == {"message": "out of paper", "code": "17", "step": None}
    assert ends["endless"]["progress"] == {"completed": 1, "total": 2}
    assert all(one.target.startswith("/a%20team") for one in server.seen)
