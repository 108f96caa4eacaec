"""How cost grows with the database: 1,000 to 1,000,000 watched runs, 1 to 100 endpoints.

Each size has a new SQLite file, filled through the store with runs that are due in an hour, and a new daemon.
Measured: the time from start to /readyz; memory (RSS) and CPU over ten seconds while nothing is due; one event at a
time (a finished run is registered; median of 20 from the provider's response to the arrival at the first endpoint);
registration in batches of 1,000; bytes of the file per run. The other endpoints receive `run.waiting` only, so that an
event costs one POST whatever their number.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import count as count_up
from pathlib import Path

from benchmarks.harness import (
    RunningDaemon,
    TimedPeers,
    connection,
    daemon,
    endpoint,
    in_an_hour,
    insert_runs,
    read_usage,
)
from benchmarks.register import measure as measure_requests
from benchmarks.register import post_batch

IDLE_S = 10.0
EVENTS = 20
BATCHES = 3
COLUMNS = ("ready s", "rss MB", "idle cpu %", "event ms", "registered/s", "file B/run")


async def measure(runs: int, endpoints: int) -> dict[str, float]:
    """Measure one size."""
    peers = TimedPeers()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runbridge.db"
        await insert_runs(f"sqlite:///{file}", runs, due_at=in_an_hour())
        size = file.stat().st_size
        async with peers.serve() as url:
            config = connection(url) + endpoint(url) + other_endpoints(url, endpoints - 1)
            started = time.monotonic()
            async with daemon(Path(folder), config) as client:
                await ready(client)
                ready_s = time.monotonic() - started
                await asyncio.sleep(2)
                before = read_usage(client.pid)
                await asyncio.sleep(IDLE_S)
                after = read_usage(client.pid)
                event_ms = await time_events(client, peers)
                spent = await measure_requests(client.pid, BATCHES, post_batch(client, count_up(10**9)), concurrency=1)
    idle_cpu = 100 * (after.cpu_s - before.cpu_s) / (after.at - before.at)
    return dict(
        zip(COLUMNS, (ready_s, after.rss / 1e6, idle_cpu, event_ms, spent.per_s * 1000, size / runs), strict=True)
    )


def other_endpoints(url: str, count: int) -> str:
    return "".join(
        f'[endpoints.other-{n}]\nurl = "{url}/other"\nsecret = "whsec_{"A" * 43}="\nevents = ["run.waiting"]\n'
        for n in range(count)
    )


async def ready(client: RunningDaemon) -> None:
    while True:
        async with client.http.get(f"{client.url}/readyz") as answer:
            if answer.status == 200:
                return
        await asyncio.sleep(0.02)


async def time_events(client: RunningDaemon, peers: TimedPeers) -> float:
    """Median milliseconds from response to arrival, one event at a time."""
    for number in range(EVENTS):
        run = {"connection": "dibby", "provider_run_id": f"over{number}"}
        async with client.http.post(f"{client.url}/v1/runs", json=run) as answer:
            assert answer.status == 201, await answer.text()
        await peers.all_received(number + 1)
    return statistics.median((at - peers.shown[run]) * 1000 for run, at in peers.arrived.items())


async def main(sizes: Sequence[int], endpoints: Sequence[int]) -> None:
    """Print a line for each size, and the cost of the largest divided by that of the smallest."""
    print(f"{'runs':>9} {'endpoints':>9} " + " ".join(f"{name:>12}" for name in COLUMNS))
    pairs = [(runs, 1) for runs in sizes] + [(sizes[0], many) for many in endpoints if many > 1]
    found = {}
    for pair in pairs:
        found[pair] = await measure(*pair)
        print(f"{pair[0]:9} {pair[1]:9} " + " ".join(f"{value:12,.2f}" for value in found[pair].values()), flush=True)
    for what, last in (("runs", (sizes[-1], 1)), ("endpoints", (sizes[0], endpoints[-1]))):
        growth = [found[last][name] / (found[pairs[0]][name] or 1) for name in COLUMNS]
        print(f"{'most ÷ fewest ' + what:>19} " + " ".join(f"{each:12,.2f}" for each in growth))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        type=int,
        nargs="+",
        default=[1_000, 100_000],
        help="ascending; 1000 10000 100000 1000000 takes minutes",
    )
    parser.add_argument("--endpoints", type=int, nargs="+", default=[1, 100], help="ascending")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.runs, arguments.endpoints))
