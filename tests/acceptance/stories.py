"""Stories that are slow by contract (a lost run, a drain, a probe) or by nature (fuzzing, the demo).

A story returns what it saw; the tests in test_slow_stories check it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.api.examples import EXAMPLES
from bridge.sandbox import Received, Reply, ReplyKind, Sandbox, Scenario
from tests.support.daemon_process import TOKEN, DaemonProcess
from tests.support.daemon_setup import daemon_setup
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# What it refused on 829 cases: an Idempotency-Key that it had used for another request (17), cursors of no list (4),
# unknown connections and channels, JMESPath's grammar, and pairs of which one may be given. No schema says the first four.
UNCHECKED = "positive_data_acceptance"
EXAMPLES_MAX = 6  # of each operation, besides the systematic ones
PROGRAM_TIMEOUT_S = 400.0


def events_of(received: Sequence[Received], event_type: str) -> list[dict[str, Any]]:
    """The events of one type, one per id."""
    return list({one.id: one.event for one in received if one.type == event_type}.values())


def posts(received: Sequence[Received], path: str) -> list[Received]:
    return [one for one in received if one.path == path]


async def lose_a_run(folder: Path) -> dict[str, Any]:
    async with daemon_setup(folder) as (daemon, sandbox, receiver):
        async with daemon:
            forgotten = Scenario(duration_s=1, outcome="lost")
            for provider in sandbox.providers:
                await daemon.register(provider, sandbox.add_run(provider, scenario=forgotten, shape=old(provider)))
            await receiver.wait_for(lambda got: len(events_of(got, "run.finished")) == len(sandbox.providers), 120)
            await daemon.stop()
        return {"finishes": events_of(receiver.received, "run.finished"), "requests": sandbox.requests}


def old(provider: str) -> str | None:
    """An older Dify answers 200 with nulls for a run that it does not know."""
    return "old" if provider == "dify" else None


async def drain(folder: Path) -> dict[str, Any]:
    endpoints, delivery = ("slow", "hanging"), {"timeout": "60s"}
    async with daemon_setup(folder, "dify", endpoints=endpoints, delivery=delivery) as (daemon, sandbox, receiver):
        receiver.script(Reply(delay_s=3), path="/slow")
        receiver.script(Reply(kind=ReplyKind.HANG), path="/hanging")
        async with daemon:
            over = Scenario(duration_s=1, outcome="failed")
            await daemon.register("dify", sandbox.add_run("dify", scenario=over, age_s=60))
            await receiver.wait_for(lambda got: len(got) == 2)
            daemon.terminate()
            code = await daemon.ended()
            log = daemon.log_since()
            await daemon.restart()
            await receiver.wait_for(lambda got: len(posts(got, "/hanging")) == 2, 90)
            answer = await daemon.eventually(
                "/v1/deliveries", lambda found: all(one["state"] == "delivered" for one in found["data"])
            )
            await daemon.stop()
        return {"code": code, "log": log, "received": receiver.received, "deliveries": answer["data"]}


async def refuse_the_key(folder: Path) -> dict[str, Any]:
    async with daemon_setup(folder, "dify") as (daemon, sandbox, receiver):
        daemon.config["connections"]["dify"]["max_in_flight"] = 4
        async with daemon:
            sandbox.fail("dify", "401", count=None)
            wanted = [
                {"connection": "dify", "provider_run_id": sandbox.add_run("dify", scenario=Scenario(duration_s=1))}
                for _ in range(30)
            ]
            await daemon.ask("POST", "/v1/runs/batch", {"runs": wanted})
            await receiver.wait_for(lambda got: events_of(got, "connection.failing") != [], 90)
            shown = (await daemon.ask("GET", "/v1/connections"))["data"][0]
            waiting = (await daemon.ask("GET", "/v1/runs"))["data"]
            refused = len(sandbox.requests)
            await until(lambda: len(sandbox.requests) > refused, timeout_s=40)  # the first probe, refused as well
            refused = len(sandbox.requests)
            sandbox.clear_faults()
            await receiver.wait_for(lambda got: len(events_of(got, "run.finished")) == len(wanted), 90)
            events = await daemon.all_events()
            await daemon.stop()
        return {"refused": refused, "events": events, "shown": shown, "waiting": waiting}


async def fuzz(folder: Path) -> tuple[int, str, str]:
    async with Sandbox() as sandbox:
        daemon = DaemonProcess(folder, delivery={"allow": ["127.0.0.0/8"], "retry_schedule": []})
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        async with daemon:
            over = await daemon.register("dify", sandbox.add_run("dify", scenario=Scenario(duration_s=1), age_s=60))
            await daemon.finish_of(over["id"])  # it will be found, and waiting for it ends at once
            sandbox.add_run("dify", run_id=EXAMPLES["RunBody"]["provider_run_id"], scenario=Scenario(duration_s=1))
            command = [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {TOKEN}", "--seed", "1", "--no-color"),
                *("--checks", "all", "--exclude-checks", UNCHECKED),
                *(
                    "--phases",
                    "examples,coverage,fuzzing",
                    "--max-examples",
                    str(EXAMPLES_MAX),
                    "--request-timeout",
                    "20",
                ),
                *("--exclude-path", "/v1/events/stream", "--warnings", "off"),  # a stream never ends
            ]
            code, said = await run_program(folder, *command)
            assert (await daemon.call("GET", "/healthz"))[0] == 200
            await daemon.stop()
            return code, said, daemon.log_since()


async def demonstrate(folder: Path) -> tuple[int, str]:
    return await run_program(folder, sys.executable, "-m", "bridge.sandbox.demo")


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
