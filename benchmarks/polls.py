"""Polls that find no change, as fast as possible, against a bare aiohttp loop that sends GET and reads.

The runs keep running; the cadence settings ask for ten polls a second of each run, so that only the daemon and its 64
requests in flight are the limit. Daemon and bare loop are processes of their own against the same server in this one.
CPU is user + system time; disk writes come from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from aiohttp import web

from benchmarks.harness import Peers, Spent, Usage, daemon, insert_runs, read_usage
from benchmarks.pipeline import measure_raw

IN_FLIGHT = 64
CALM_S = 2.0  # until the transitions of the first polls are on the disk
BARE = 10_000  # requests of the bare loop
RUNNING = b'{"versionName":"1.0","status":"RUNNING","createdAt":"2025-01-15T10:30:00Z","steps":5,"stepsCompleted":2}'


class StillRunning(Peers):
    """A provider whose runs never end; `warm` is set after `warm_after` polls."""

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


async def measure(url: str, peers: StillRunning, runs: int, window_s: float) -> tuple[Spent, Usage, Usage]:
    """Measure the daemon polling `runs` runs for `window_s`, once `peers` are warm."""
    with tempfile.TemporaryDirectory() as folder:
        await insert_runs(f"sqlite:///{folder}/runbridge.db", runs)
        async with daemon(Path(folder), config(url)) as client:
            await peers.warm.wait()
            await asyncio.sleep(CALM_S)
            polled, before = peers.polled, read_usage(client.pid)
            await asyncio.sleep(window_s)
            count, after = peers.polled - polled, read_usage(client.pid)
    return Spent(count, after.at - before.at, after.cpu_s - before.cpu_s), before, after


async def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--window", type=float, default=10.0, help="seconds")
    arguments = parser.parse_args()
    peers = StillRunning(BARE + 3 * arguments.runs)
    async with peers.serve() as url:
        bare = await measure_raw("polls", url, BARE, IN_FLIGHT)
        ours, before, after = await measure(url, peers, arguments.runs, arguments.window)
    print(f"{arguments.runs} running runs, {IN_FLIGHT} requests in flight, window {arguments.window:g} s")
    print(f"bare GET loop:             {bare.per_s:8.0f}/s  {bare.cpu_us:6.0f} us CPU each")
    print(f"polls without change:      {ours.per_s:8.0f}/s  {ours.cpu_us:6.0f} us CPU each")
    print(f"written to disk:           {(after.written - before.written) / ours.count:8.2f} bytes per poll")
    print(
        f"polls ÷ bare GET loop: {ours.per_s / bare.per_s:.2f} in items/s, "
        f"{bare.cpu_us / ours.cpu_us:.2f} in CPU per item (bare ÷ ours)"
    )


if __name__ == "__main__":
    asyncio.run(main())
