"""From the provider's answer that a run is over to the webhook's arrival, at a steady rate: p50, p99, worst.

Runs that are over wait in the database, their first looks due one after the other: an open loop, whether the daemon
keeps up or not. The time runs from the moment before the provider's server (in this process) sends the answer to the
moment the receiver has read the POST, so a first commit, the signing and the request lie within it, and so do this
process's own waits. The first second is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from benchmarks.events import Peers, connection, endpoint
from benchmarks.idle import read
from benchmarks.prefill import insert_runs
from benchmarks.process import daemon
from bridge.domain.clock import SystemClock

START_S = 7.0  # until the first look: time for the daemon to start
LEFT_OUT_S = 1.0
PATIENCE_S = 15.0


class TimedPeers(Peers):
    """Note when each run was shown to be over and when its webhook came; seconds of the monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, float] = {}
        self.arrived: dict[str, float] = {}

    async def poll(self, request: web.Request) -> web.Response:
        self.shown.setdefault(request.match_info["id"], time.monotonic())
        return await super().poll(request)

    async def take(self, request: web.Request) -> web.Response:
        event = await request.json()
        self.arrived.setdefault(event["data"]["run"]["provider_run_id"], time.monotonic())
        return await super().take(request)


def percentile(waits: list[float], percent: float) -> float:
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * percent / 100))]


async def measure(rate: float, seconds: float) -> dict[str, float]:
    """One rate, on a fresh daemon."""
    count, peers = int(rate * seconds), TimedPeers()
    with tempfile.TemporaryDirectory() as folder:
        due_at, began_s = SystemClock().now() + timedelta(seconds=START_S), time.monotonic() + START_S
        await insert_runs(f"sqlite:///{folder}/runbridge.db", count, due_at=due_at, every_s=1 / rate)
        async with peers.serve() as url, daemon(Path(folder), connection(url) + endpoint(url)) as client:
            await asyncio.sleep(began_s - time.monotonic())
            before = read(client.pid)
            try:
                await asyncio.wait_for(peers.all_received(count), seconds + PATIENCE_S)
            except TimeoutError:
                print(f"only {peers.received} of {count} arrived within {PATIENCE_S:g} s of the last look")
            after = read(client.pid)
    first = min(peers.shown.values()) + LEFT_OUT_S
    waits = [(at - peers.shown[run]) * 1000 for run, at in peers.arrived.items() if peers.shown[run] >= first]
    return {
        "counted": len(waits),
        "p50 ms": percentile(waits, 50),
        "p99 ms": percentile(waits, 99),
        "worst ms": max(waits),
        "cpu %": 100 * (after.cpu_s - before.cpu_s) / (after.at - before.at),
        "last look late ms": (max(peers.shown.values()) - began_s - seconds) * 1000,
    }


async def main() -> None:
    """Print a line for each rate."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rates", type=float, nargs="+", default=[50.0, 200.0], help="events per second")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    given = arguments.parse_args()
    print(f"answer seen → webhook arrived, {given.seconds:g} s of each rate")
    for rate in given.rates:
        found = await measure(rate, given.seconds)
        print(f"{rate:5.0f}/s  " + "  ".join(f"{name} {value:,.1f}" for name, value in found.items()))


if __name__ == "__main__":
    asyncio.run(main())
