"""What takes its time by contract (a lost run, a drain, a probe) or by nature (fuzzing, the demo).

They wait side by side: the first test of this file starts all of them, and each test judges one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bridge.sandbox import Life, Received, Receiver, Reply, Sandbox
from bridge.sandbox.receipt import ReplyKind
from tests.support.daemon_process import TOKEN, DaemonProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,ignored_auth,unsupported_method"
)  # not positive_data_acceptance: no schema can say which connections there are
EXAMPLES_MAX = 6  # of each operation, besides the systematic ones
PROGRAM_TIMEOUT_S = 150.0
Stories = dict[str, "asyncio.Task[Any]"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stories(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stories]:
    told = (lose_a_run, drain, refuse_the_key, fuzz, demonstrate)
    tasks = {one.__name__: asyncio.create_task(one(tmp_path_factory.mktemp(one.__name__))) for one in told}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


def told(received: Sequence[Received], event_type: str) -> list[dict[str, Any]]:
    """The events of a type, one of each id."""
    return list({one.id: one.event for one in received if one.type == event_type}.values())


def posts(received: Sequence[Received], path: str) -> list[Received]:
    return [one for one in received if one.path == path]


# -- a run that the provider forgets


async def lose_a_run(folder: Path) -> dict[str, Any]:
    async with Sandbox() as sandbox, Receiver() as receiver:
        daemon = DaemonProcess(folder)
        for provider in sandbox.providers:
            daemon.add_connection(provider, provider, sandbox.url(provider))
        receiver.add_secret(daemon.add_endpoint("app", receiver.url()))
        async with daemon:
            forgotten = Life(duration_s=1, outcome="lost")
            for provider in sandbox.providers:
                await daemon.register(provider, sandbox.add_run(provider, life=forgotten, shape=old(provider)))
            await receiver.wait_for(lambda got: len(told(got, "run.finished")) == len(sandbox.providers), 120)
            await daemon.stop()
        return {"finishes": told(receiver.received, "run.finished"), "requests": sandbox.requests}


def old(provider: str) -> str | None:
    """Dify's way of saying that there is no such run used to be 200 and nulls."""
    return "old" if provider == "dify" else None


async def test_a_run_that_its_provider_forgets_is_lost_after_five_404s_over_a_minute_not_before(
    stories: Stories,
) -> None:
    seen = await stories["lose_a_run"]
    runs = [event["data"]["run"] for event in seen["finishes"]]
    assert sorted(run["provider"] for run in runs) == ["dibby", "dify", "instabase", "retab"]
    for run in runs:
        assert (run["status"], run["settled"]) == ("lost", True)
        assert run["error"]["message"]
        asked = [one.at for one in seen["requests"] if one.run_id == run["provider_run_id"]]
        assert len(asked) >= 5
        assert (asked[-1] - asked[0]).total_seconds() >= 60


# -- SIGTERM with posts under way


async def drain(folder: Path) -> dict[str, Any]:
    async with Sandbox() as sandbox, Receiver() as receiver:
        daemon = DaemonProcess(folder, delivery={"timeout": "60s"})
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        for path in ("/slow", "/hanging"):
            receiver.add_secret(daemon.add_endpoint(path[1:], receiver.url(path)), path=path)
        receiver.script(Reply(delay_s=3), path="/slow")
        receiver.script(Reply(kind=ReplyKind.HANG), path="/hanging")
        async with daemon:
            over = Life(duration_s=1, outcome="failed")
            await daemon.register("dify", sandbox.add_run("dify", life=over, age_s=60))
            await receiver.wait_for(lambda got: len(got) == 2)
            daemon.terminate()
            code = await daemon.ended()
            log = daemon.log_since()
            await daemon.restart()
            await receiver.wait_for(lambda got: len(posts(got, "/hanging")) == 2, 30)
            answer = await daemon.eventually(
                "/v1/deliveries", lambda found: all(one["state"] == "delivered" for one in found["data"])
            )
            await daemon.stop()
        return {"code": code, "log": log, "received": receiver.received, "deliveries": answer["data"]}


async def test_sigterm_lets_a_slow_post_end_and_exits_0(stories: Stories) -> None:
    seen = await stories["drain"]
    assert seen["code"] == 0
    assert "Traceback" not in seen["log"]
    slow = next(one for one in seen["deliveries"] if one["endpoint_id"] == "slow")
    assert [attempt["outcome"] for attempt in slow["attempts"]] == ["delivered"]
    assert len(posts(seen["received"], "/slow")) == 1


async def test_a_post_cut_off_by_sigterm_costs_no_attempt_and_is_made_again_after_the_restart(
    stories: Stories,
) -> None:
    seen = await stories["drain"]
    hanging = next(one for one in seen["deliveries"] if one["endpoint_id"] == "hanging")
    assert (hanging["state"], hanging["failure_count"]) == ("delivered", 0)
    first, second = posts(seen["received"], "/hanging")
    assert (first.id, first.body) == (second.id, second.body)
    assert second.verified


# -- a provider that refuses the key


async def refuse_the_key(folder: Path) -> dict[str, Any]:
    async with Sandbox() as sandbox, Receiver() as receiver:
        daemon = DaemonProcess(folder)
        daemon.add_connection("dify", "dify", sandbox.url("dify"), max_in_flight=4)
        receiver.add_secret(daemon.add_endpoint("app", receiver.url()))
        async with daemon:
            sandbox.fail("dify", "401", count=None)
            wanted = [
                {"connection": "dify", "provider_run_id": sandbox.add_run("dify", life=Life(duration_s=1))}
                for _ in range(30)
            ]
            await daemon.ask("POST", "/v1/runs/batch", {"runs": wanted})
            await receiver.wait_for(lambda got: told(got, "connection.failing") != [], 30)
            shown = (await daemon.ask("GET", "/v1/connections"))["data"][0]
            waiting = (await daemon.ask("GET", "/v1/runs"))["data"]
            refused = len(sandbox.requests)
            async with asyncio.timeout(40):
                while len(sandbox.requests) == refused:
                    await asyncio.sleep(0.05)  # until the first probe, which is refused as well
            refused = len(sandbox.requests)
            sandbox.clear_faults()
            await receiver.wait_for(lambda got: len(told(got, "run.finished")) == len(wanted), 90)
            events = await daemon.all_events()
            await daemon.stop()
        return {"refused": refused, "events": events, "shown": shown, "waiting": waiting}


async def test_a_refused_key_makes_the_connection_failing_once_and_stops_the_hammering(stories: Stories) -> None:
    seen = await stories["refuse_the_key"]
    about = [event for event in seen["events"] if event["type"].startswith("connection.")]
    assert [event["type"] for event in about] == ["connection.failing", "connection.recovered"]
    for event in about:
        data = event["data"]
        assert (data["sequence"], data["previous_status"], data["run"]) == (None, None, None)
        assert "dify" in str(data["connection"])
    assert seen["refused"] <= 6  # the four that were under way, and the probe
    assert (seen["shown"]["health"], bool(seen["shown"]["reason"])) == ("failing", True)


async def test_a_refused_key_is_no_state_of_a_run_and_all_finish_once_it_works_again(stories: Stories) -> None:
    seen = await stories["refuse_the_key"]
    assert {run["status"] for run in seen["waiting"]} == {"queued"}
    finishes = [event["data"]["run"] for event in seen["events"] if event["type"] == "run.finished"]
    assert [run["status"] for run in finishes] == ["succeeded"] * 30


# -- the OpenAPI document against the daemon


async def fuzz(folder: Path) -> tuple[int, str, str]:
    async with Sandbox() as sandbox:
        daemon = DaemonProcess(folder, delivery={"allow": ["127.0.0.0/8"], "retry_schedule": []})
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        async with daemon:
            over = await daemon.register("dify", sandbox.add_run("dify", life=Life(duration_s=1), age_s=60))
            await daemon.finish_of(over["id"])  # it will be found, and waiting for it ends at once
            command = [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {TOKEN}", "--checks", CHECKS, "--seed", "1", "--no-color"),
                *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES_MAX), "--request-timeout", "20"),
                *("--exclude-path", "/v1/events/stream", "--warnings", "off"),  # a stream never ends
            ]
            code, said = await run_program(folder, *command)
            assert (await daemon.call("GET", "/healthz"))[0] == 200
            await daemon.stop()
            return code, said, daemon.log_since()


async def test_what_the_daemon_answers_conforms_to_its_openapi_document(stories: Stories) -> None:
    code, said, log = await stories["fuzz"]
    assert code == 0, said
    assert "request.failed" not in log
    assert "Traceback" not in log


# -- make demo


async def demonstrate(folder: Path) -> tuple[int, str]:
    return await run_program(folder, sys.executable, "-m", "bridge.sandbox.demo")


async def test_the_demo_shows_every_finish_verified_and_ends_with_0(stories: Stories) -> None:
    code, said = await stories["demonstrate"]
    assert code == 0, said
    assert "verified" in said
    assert "missing" not in said


async def run_program(folder: Path, *command: str) -> tuple[int, str]:
    """Run a program to its end: its exit code and what it said."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RUNBRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=PIPE, stderr=STDOUT, env={**environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        async with asyncio.timeout(PROGRAM_TIMEOUT_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
