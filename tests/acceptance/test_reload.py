"""SIGHUP: a good configuration takes effect whole, a bad one not at all."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bridge.config.load import Config, load_config
from bridge.domain.errors import StoreUnavailable
from bridge.process import serve
from bridge.sandbox import Sandbox, Scenario
from bridge.store import run_leases
from bridge.store.transaction import Tx
from tests.support.daemon_process import TOKEN, DaemonProcess
from tests.support.daemon_setup import daemon_setup
from tests.support.definition_texts import JOBS
from tests.support.foreign_server import foreign_server

SHORT = Scenario(duration_s=0.5)


async def names(daemon: DaemonProcess) -> tuple[list[str], list[str]]:
    """The connections and endpoints that the daemon works with."""
    connections = await daemon.ask("GET", "/v1/connections")
    endpoints = await daemon.ask("GET", "/v1/endpoints")
    return sorted(one["name"] for one in connections["data"]), sorted(one["id"] for one in endpoints["data"])


async def test_sighup_takes_a_good_change_and_refuses_a_bad_one_whole(tmp_path: Path) -> None:
    async with daemon_setup(tmp_path, "dify", endpoints=["first"]) as (daemon, sandbox, receiver):
        async with daemon:
            before = await daemon.register("dify", sandbox.add_run("dify", scenario=Scenario(duration_s=None)))

            daemon.add_connection("retab", "retab", sandbox.url("retab"))
            receiver.add_secret(daemon.add_endpoint("second", receiver.url("/second")), path="/second")
            shown = await daemon.reload()
            assert (shown["connections"], shown["endpoints"]) == (2, 2)
            assert await names(daemon) == (["dify", "retab"], ["first", "second"])
            run = await daemon.register("retab", sandbox.add_run("retab", scenario=SHORT))
            sandbox.add_run("dify", run_id=before["provider_run_id"], scenario=SHORT, age_s=60)
            both = {before["id"], run["id"]}
            for path in (
                "/first",
                "/second",
            ):  # the earlier run is still watched, and its events reach the new endpoint, too
                await receiver.wait_for(
                    lambda got, path=path: (
                        both
                        == {
                            one.event["data"]["run"]["id"]
                            for one in got
                            if one.path == path and one.type == "run.finished"
                        }
                    )
                )

            good = copy.deepcopy(daemon.config)
            daemon.add_connection("dibby", "dibby", sandbox.url("dibby"), max_intervall="1s")
            daemon.add_endpoint("third", receiver.url("/third"), events=["run.finishd"])
            del daemon.config["connections"]["retab"]
            refused = await daemon.reload("config.refused")
            problems = "\n".join(refused["problems"])
            assert "max_intervall" in problems
            assert "max_interval`" in problems or "max_interval" in problems.replace("max_intervall", "")
            assert "run.finished" in problems
            (shown,) = [one for one in (await daemon.ask("GET", "/v1/summary"))["attention"] if one["kind"] == "daemon"]
            assert "the last reload was refused" in shown["sentence"]
            assert "run.finished" in shown["sentence"]
            assert await names(daemon) == (["dify", "retab"], ["first", "second"])
            run = await daemon.register("retab", sandbox.add_run("retab", scenario=SHORT))
            assert (await daemon.finish_of(run["id"]))["status"] == "succeeded"

            daemon.config = good
            del daemon.config["endpoints"]["second"]
            await daemon.reload()
            assert await names(daemon) == (["dify", "retab"], ["first"])
            assert not [one for one in (await daemon.ask("GET", "/v1/doctor"))["data"] if one["result"] == "wrong"]
            await daemon.stop()
        assert all(one.verified for one in receiver.received)
        assert "/third" not in {one.path for one in receiver.received}
        assert "Traceback" not in daemon.log_since()


async def test_sighup_changes_the_key_the_secret_and_the_token_at_once(tmp_path: Path) -> None:
    async with daemon_setup(tmp_path, "dify", api_key="key-two") as (daemon, sandbox, receiver):
        daemon.config["connections"]["dify"]["api_key"] = "key-one"
        async with daemon:
            assert (await daemon.ask("POST", "/v1/connections/dify/check"))["ok"] is False
            daemon.config["connections"]["dify"]["api_key"] = "key-two"
            receiver.add_secret(daemon.add_endpoint("app", receiver.url()))
            daemon.config["server"]["api_token"] = "token-two"
            await daemon.reload()
            new = {"Authorization": "Bearer token-two"}
            assert (await daemon.ask("POST", "/v1/connections/dify/check", headers=new))["ok"] is True
            assert (await daemon.call("GET", "/v1/connections"))[0] == 401
            run_id = sandbox.add_run("dify", scenario=SHORT)
            wanted = {"connection": "dify", "provider_run_id": run_id}
            await daemon.ask("POST", "/v1/runs", wanted, status=201, headers=new)
            received = await receiver.wait_for(lambda got: any(one.type == "run.finished" for one in got))
            assert all(one.verified for one in received)


async def test_a_reload_that_the_database_breaks_off_is_made_again(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of it a connection has lost its poller and has no new one yet."""
    monkeypatch.setattr("bridge.process.RELOAD_AGAIN_S", 0.1)
    clamp_due, failures = run_leases.clamp_due, [StoreUnavailable("the disk is full")]

    def clamp_or_fail(tx: Tx, connection: str, latest: datetime) -> int:
        if is_changed and failures:
            raise failures.pop()
        return clamp_due(tx, connection, latest)

    monkeypatch.setattr(run_leases, "clamp_due", clamp_or_fail)
    written, is_changed = DaemonProcess(tmp_path), False
    written.config["server"]["listen"] = f"unix:{tmp_path}/api.sock"
    written.add_connection("dibby", "dibby", sandbox.url("dibby"))

    def read_config() -> Config:
        written.write_config()
        return load_config(written.config_path, env={}, flags={})

    serving = asyncio.create_task(serve(read_config(), read_config=read_config))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        asyncio.timeout(60),
        aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(f"{tmp_path}/api.sock"), headers=headers
        ) as session,
    ):
        while not (tmp_path / "api.sock").exists():
            await asyncio.sleep(0.02)
        written.config["connections"]["dibby"]["max_in_flight"] = 3
        is_changed = True
        os.kill(os.getpid(), signal.SIGHUP)
        while failures:
            await asyncio.sleep(0.02)
        wanted = {
            "connection": "dibby",
            "provider_run_id": sandbox.add_run("dibby", scenario=Scenario(duration_s=0.0)),
        }
        while (made := await session.post("/v1/runs", json=wanted)).status != 201:
            await asyncio.sleep(0.02)
        run_id = (await made.json())["id"]
        ended = await session.get(f"/v1/runs/{run_id}/wait?timeout=10")
        assert (await ended.json())["status"] == "succeeded"
        os.kill(os.getpid(), signal.SIGTERM)
        await serving


async def test_a_definition_with_watched_runs_cannot_be_removed(tmp_path: Path) -> None:
    job = {"state": "RUN"}

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(job)

    (tmp_path / "providers").mkdir()
    file = tmp_path / "providers/jobs.toml"
    file.write_text(JOBS + 'succeeded = ["OK"]\n')
    async with foreign_server(answer) as server:
        daemon = DaemonProcess(tmp_path)
        daemon.config["connections"] = {"j": {"provider": "jobs", "base_url": server.url, "api_key": "key-of-jobs"}}
        async with daemon:
            run = await daemon.register("j", "7")
            await daemon.eventually(f"/v1/runs/{run['id']}", lambda shown: shown["status"] == "running")
            file.unlink()
            del daemon.config["connections"]["j"]
            refused = await daemon.reload("config.refused")
            assert refused["problems"] == [
                "providers.jobs: 1 runs are watched with this definition; keep it until they are over"
            ]
            job["state"] = "OK"
            assert (await daemon.finish_of(run["id"]))["status"] == "succeeded", "it is still polled"
            await daemon.reload()
            assert await names(daemon) == ([], [])
            await daemon.stop()
