"""kill -9 again and again while runs finish and a tenth of the posts fail: nothing is lost, nothing told twice over.

RUNBRIDGE_SOAK=1 makes it 400 runs and two minutes; nothing else is different.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bridge.sandbox import Life, Received, Receiver, Reply, Sandbox
from bridge.sandbox.receipt import ReplyKind
from tests.support.daemon_process import DaemonProcess

IS_SOAK = os.environ.get("RUNBRIDGE_SOAK") == "1"
RUNS, LIFE_MAX_S, KILLS = (400, 90.0, 60) if IS_SOAK else (150, 7.0, 4)
RETRIES = ["200ms", "500ms", *["1s"] * 20]
OUTCOMES = ("succeeded", "failed")
LEASE_S = 30  # on PostgreSQL a killed daemon's claims stand for 20 s


def finished(received: Sequence[Received]) -> set[str]:
    """The runs whose finish was taken."""
    return {one.event["data"]["run"]["id"] for one in received if one.type == "run.finished" and one.status == 204}


async def register_all(daemon: DaemonProcess, sandbox: Sandbox) -> dict[str, str]:
    """Runs that end one after another; their ids, each with its outcome."""
    chance, expected = random.Random(7), {}
    wanted = []
    for number in range(RUNS):
        provider, outcome = sandbox.providers[number % 4], OUTCOMES[number % 2]
        life = Life(duration_s=chance.uniform(0.5, LIFE_MAX_S), outcome=outcome)
        run_id = sandbox.add_run(provider, life=life)
        wanted.append({"connection": provider, "provider_run_id": run_id, "metadata": {"outcome": outcome}})
    answer = await daemon.ask("POST", "/v1/runs/batch", {"runs": wanted})
    for item in answer["data"]:
        assert item["status"] == 201
        expected[item["run"]["id"]] = item["run"]["metadata"]["outcome"]
    return expected


async def kill_until(daemon: DaemonProcess, receiver: Receiver, kills: int) -> int:
    """Kill and start again every one to two seconds, until the last kill or the last finish; how often."""
    chance = random.Random(8)
    for number in range(kills):
        try:
            await receiver.wait_for(lambda got: len(finished(got)) == RUNS, chance.uniform(1, 2))
        except TimeoutError:
            await daemon.kill()
            await daemon.restart()
        else:
            return number
    return kills


async def test_kill_9_again_and_again_loses_nothing_and_gives_no_run_a_second_finish(
    database_url: str, tmp_path: Path
) -> None:
    async with Sandbox() as sandbox, Receiver() as receiver:
        daemon = DaemonProcess(tmp_path, database_url, delivery={"retry_schedule": RETRIES})
        for provider in sandbox.providers:
            daemon.add_connection(provider, provider, sandbox.url(provider))
        receiver.add_secret(daemon.add_endpoint("app", receiver.url()))
        receiver.every(10, Reply(503))
        receiver.script(*[Reply(kind=ReplyKind.DROP)] * 3)
        async with daemon:
            expected = await register_all(daemon, sandbox)
            assert await kill_until(daemon, receiver, KILLS) >= 2
            await receiver.wait_for(lambda got: len(finished(got)) == RUNS, LEASE_S + 60)
            await every_delivery_is_made(daemon)
            feed = await daemon.all_events()
            await daemon.stop()
        judge(expected, feed, receiver.received)


async def every_delivery_is_made(daemon: DaemonProcess) -> None:
    """Nothing is pending and nothing given up."""
    for state in ("pending", "exhausted", "discarded"):
        await daemon.eventually(
            f"/v1/deliveries?state={state}&limit=1", lambda answer: answer["data"] == [], timeout_s=60
        )


def judge(expected: dict[str, str], feed: Sequence[dict[str, Any]], received: Sequence[Received]) -> None:
    told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in feed:
        told[event["data"]["run"]["id"]].append(event)
    assert set(told) == set(expected)
    for run_id, events in told.items():
        assert [event["data"]["sequence"] for event in events] == list(range(1, len(events) + 1))
        finishes = [event for event in events if event["type"] == "run.finished"]
        assert [event["data"]["run"]["status"] for event in finishes] == [expected[run_id]]
        assert events[-1] is finishes[0]
    bodies: defaultdict[str, set[bytes]] = defaultdict(set)
    for one in received:
        assert one.verified
        bodies[one.id].add(one.body)
    assert set(bodies) == {event["id"] for event in feed}
    assert all(len(variants) == 1 for variants in bodies.values())


async def test_a_registration_that_was_answered_survives_a_kill_at_that_moment(
    database_url: str, tmp_path: Path
) -> None:
    async with Sandbox() as sandbox:
        daemon = DaemonProcess(tmp_path, database_url)
        daemon.add_connection("dify", "dify", sandbox.url("dify"))
        async with daemon:
            answered: list[str] = []

            async def keep_registering() -> None:
                while True:
                    run = await daemon.register("dify", sandbox.add_run("dify", life=Life(duration_s=None)))
                    answered.append(run["id"])

            task = asyncio.create_task(keep_registering())
            async with asyncio.timeout(30):
                while len(answered) < 20:
                    await asyncio.sleep(0.01)
            await daemon.kill()
            await asyncio.gather(task, return_exceptions=True)
            assert isinstance(task.exception(), aiohttp.ClientError | RuntimeError)
            await daemon.restart()
            for run_id in answered:
                assert (await daemon.ask("GET", f"/v1/runs/{run_id}"))["id"] == run_id
