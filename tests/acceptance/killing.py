"""Repeated `kill -9` while runs finish and a tenth of the posts fail.

RUNBRIDGE_SOAK=1 makes it 400 runs and two minutes; nothing else is different.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bridge.sandbox import Received, Receiver, Reply, ReplyKind, Sandbox, Scenario
from tests.support.daemon_process import DaemonProcess
from tests.support.daemon_setup import daemon_setup

IS_SOAK = os.environ.get("RUNBRIDGE_SOAK") == "1"
RUNS, LIFE_MAX_S, KILLS = (400, 90.0, 60) if IS_SOAK else (150, 7.0, 4)
RETRIES = ["200ms", "500ms", *["1s"] * 20]
OUTCOMES = ("succeeded", "failed")
LEASE_S = 30  # on PostgreSQL a killed daemon's leases last for 20 s
STALL_S = 60  # no webhook for so long: something is stuck


def finished(received: Sequence[Received]) -> set[str]:
    """Ids of the runs whose `run.finished` was accepted."""
    return {one.event["data"]["run"]["id"] for one in received if one.type == "run.finished" and one.status == 204}


class Registrar:
    """Makes runs that end one after another; registers half in one batch, half one by one while the daemon is killed.

    `expected` maps the id of each run that was registered to its outcome.
    """

    def __init__(self, daemon: DaemonProcess, sandbox: Sandbox) -> None:
        self.expected: dict[str, str] = {}
        self._daemon = daemon
        self._sandbox = sandbox
        self._chance = random.Random(7)

    def _make(self, number: int) -> dict[str, Any]:
        provider, outcome = self._sandbox.providers[number % 4], OUTCOMES[number % 2]
        scenario = Scenario(duration_s=self._chance.uniform(0.5, LIFE_MAX_S), outcome=outcome)
        run_id = self._sandbox.add_run(provider, scenario=scenario)
        return {"connection": provider, "provider_run_id": run_id, "metadata": {"outcome": outcome}}

    async def register_batch(self) -> None:
        wanted = [self._make(number) for number in range(RUNS // 2)]
        for item in (await self._daemon.ask("POST", "/v1/runs/batch", {"runs": wanted}))["data"]:
            assert item["status"] == 201
            self._note(item["run"])

    async def register_one_by_one(self, receiver: Receiver) -> None:
        """Spread over the whole story: one more for every two webhooks that arrive.

        A call that a kill broke off is made again; it may answer 200, because the first one may have got through.
        """
        for number in range(RUNS // 2, RUNS):
            await receiver.wait_for(lambda got, number=number: len(got) >= 2 * number - RUNS, STALL_S)
            wanted, was_broken_off = self._make(number), False
            while True:
                try:
                    status, _, body = await self._daemon.call("POST", "/v1/runs", wanted)
                except (aiohttp.ClientError, RuntimeError):  # RuntimeError: the session was closed under it
                    was_broken_off = True
                    await asyncio.sleep(0.05)
                else:
                    break
            assert status == 201 or (status == 200 and was_broken_off), body
            self._note(json.loads(body))

    def _note(self, run: dict[str, Any]) -> None:
        self.expected[run["id"]] = run["metadata"]["outcome"]


async def kill_until(daemon: DaemonProcess, receiver: Receiver, kills: int) -> int:
    """Kill and restart every one to two seconds, `kills` times or until every run has finished; the number of kills."""
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


@dataclass
class Killed:
    """The registered runs with their outcomes, the feed at the end, and the webhooks that arrived."""

    expected: dict[str, str]
    feed: list[dict[str, Any]]
    received: list[Received]


async def kill_again_and_again(folder: Path, database_url: str | None = None) -> Killed:
    """Register, kill and restart until every run is over and every delivery made."""
    delivery = {"retry_schedule": RETRIES}
    async with daemon_setup(folder, database_url=database_url, delivery=delivery) as (daemon, sandbox, receiver):
        receiver.every(10, Reply(503))
        receiver.script(*[Reply(kind=ReplyKind.DROP)] * 3)
        registrar = Registrar(daemon, sandbox)
        async with daemon:
            await registrar.register_batch()
            registering = asyncio.create_task(registrar.register_one_by_one(receiver))
            assert await kill_until(daemon, receiver, KILLS) >= 2
            await registering
            await receiver.wait_for(lambda got: len(finished(got)) == RUNS, LEASE_S + 60)
            await every_delivery_is_made(daemon)
            feed = await daemon.all_events()
            await daemon.stop()
        return Killed(registrar.expected, feed, list(receiver.received))


async def every_delivery_is_made(daemon: DaemonProcess) -> None:
    """Wait until no delivery is pending; none may have been given up."""
    for state in ("pending", "exhausted", "discarded"):
        await daemon.eventually(
            f"/v1/deliveries?state={state}&limit=1", lambda answer: answer["data"] == [], timeout_s=60
        )
