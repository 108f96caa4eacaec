"""Polls that bring no news, as fast as they go, against a bare aiohttp loop that only gets and reads.

The runs are running and stay so; every cadence setting asks for looks ten times a second, so that only the daemon and
its 64 requests in flight are the limit. Daemon and bare loop are each a process of their own against the same server
in this one. CPU is user + system; the daemon's, and the bytes it wrote to disk, from /proc over the window.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from aiohttp import web

from benchmarks.events import Peers
from benchmarks.idle import Reading, read
from benchmarks.pipeline import Spent, measure_raw
from benchmarks.prefill import insert_runs
from benchmarks.process import daemon

IN_FLIGHT = 64
CALM_S = 2.0  # until the news of the first looks is on the disk
BARE = 10_000  # requests of the bare loop
RUNNING = b'{"id":"run_x","versionName":"1.0","status":"RUNNING","createdAt":"2025-01-15T10:30:00Z","steps":5,"stepsCompleted":2}'


class StillRunning(Peers):
    """A provider whose runs never end; `warm` when it was asked often enough."""

    def __init__(self, warm_after: int) -> None:
        super().__init__()
        self.warm = asyncio.Event()
        self._warm_after = warm_after

    async def poll(self, _request: web.Request) -> web.Response:
        self.polled += 1
        if self.polled == self._warm_after:
            self.warm.set()
        return web.Response(body=RUNNING, content_type="application/json")


def config(url: str) -> str:
    return (
        f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{url}/dibby"\napi_key = "k"\n'
        f"requests_per_second = 1000000\nmax_in_flight = {IN_FLIGHT}\n"
        '[cadence]\nprice = "1ms"\nmin_interval = "100ms"\nmax_interval = "100ms"\n'
    )


async def watch(url: str, peers: StillRunning, runs: int, window_s: float) -> tuple[Spent, Reading, Reading]:
    """Let the daemon look at `runs` runs over and over; before the window begins, three times as many looks."""
    with tempfile.TemporaryDirectory() as folder:
        await insert_runs(f"sqlite:///{folder}/runbridge.db", runs)
        async with daemon(Path(folder), config(url)) as client:
            await peers.warm.wait()
            await asyncio.sleep(CALM_S)
            polled, before = peers.polled, read(client.pid)
            await asyncio.sleep(window_s)
            count, after = peers.polled - polled, read(client.pid)
    return Spent(count, after.at - before.at, after.cpu_s - before.cpu_s), before, after


async def main() -> None:
    """Print the table and the ratios."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--window", type=float, default=10.0, help="seconds")
    given = arguments.parse_args()
    peers = StillRunning(BARE + 3 * given.runs)
    async with peers.serve() as url:
        bare = await measure_raw("polls", url, BARE, IN_FLIGHT)
        ours, before, after = await watch(url, peers, given.runs, given.window)
    print(f"{given.runs} running runs, {IN_FLIGHT} requests in flight, window {given.window:g} s")
    print(f"bare GET loop:             {bare.per_s:8.0f}/s  {bare.cpu_us:6.0f} us CPU each")
    print(f"polls without change:      {ours.per_s:8.0f}/s  {ours.cpu_us:6.0f} us CPU each")
    print(f"written to disk:           {(after.written - before.written) / ours.count:8.2f} bytes per poll")
    print(
        f"polls ÷ bare GET loop: {ours.per_s / bare.per_s:.2f} in items/s, "
        f"{bare.cpu_us / ours.cpu_us:.2f} in CPU per item (bare ÷ ours)"
    )


if __name__ == "__main__":
    asyncio.run(main())
