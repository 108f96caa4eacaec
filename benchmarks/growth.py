"""How cost grows with what lies in the database: 1,000 to 1,000,000 watched runs, 1 to 100 endpoints.

Each size is a fresh SQLite file, filled over the store's own functions with watched runs that are next due in an
hour, and a fresh daemon on it. Measured are the start from the call to /readyz; memory (RSS) and CPU over ten seconds
while nothing is due; one event at a time (a run that is over is registered; from the provider's answer to the webhook's
arrival at the first endpoint; median of 20); registration in batches of 1,000; bytes of the file per run. Endpoints
beside the first hear of `run.waiting` only, so that an event costs one POST however many they are.
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

from benchmarks.events import connection, endpoint
from benchmarks.idle import read
from benchmarks.latency import TimedPeers
from benchmarks.prefill import in_an_hour, insert_runs
from benchmarks.process import Daemon, daemon
from benchmarks.register import measure as measure_asking
from benchmarks.register import post_batch

IDLE_S = 10.0
EVENTS = 20
BATCHES = 3
COLUMNS = ("ready s", "rss MB", "idle cpu %", "event ms", "registered/s", "file B/run")


async def measure(runs: int, endpoints: int) -> dict[str, float]:
    """One size."""
    peers = TimedPeers()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runbridge.db"
        await insert_runs(f"sqlite:///{file}", runs, due_at=in_an_hour())
        size = file.stat().st_size
        async with peers.serve() as url:
            config = connection(url) + endpoint(url) + deaf_endpoints(url, endpoints - 1)
            started = time.monotonic()
            async with daemon(Path(folder), config) as client:
                await ready(client)
                ready_s = time.monotonic() - started
                await asyncio.sleep(2)
                before = read(client.pid)
                await asyncio.sleep(IDLE_S)
                after = read(client.pid)
                event_ms = await time_events(client, peers)
                spent = await measure_asking(client.pid, BATCHES, post_batch(client, count_up(10**9)), concurrency=1)
    idle_cpu = 100 * (after.cpu_s - before.cpu_s) / (after.at - before.at)
    return dict(
        zip(COLUMNS, (ready_s, after.rss / 1e6, idle_cpu, event_ms, spent.per_s * 1000, size / runs), strict=True)
    )


def deaf_endpoints(url: str, count: int) -> str:
    return "".join(
        f'[endpoints.other-{n}]\nurl = "{url}/other"\nsecret = "whsec_{"A" * 43}="\nevents = ["run.waiting"]\n'
        for n in range(count)
    )


async def ready(client: Daemon) -> None:
    while True:
        async with client.http.get(f"{client.url}/readyz") as answer:
            if answer.status == 200:
                return
        await asyncio.sleep(0.02)


async def time_events(client: Daemon, peers: TimedPeers) -> float:
    """Median milliseconds from answer to arrival, one after the other."""
    for number in range(EVENTS):
        run = {"connection": "dibby", "provider_run_id": f"over{number}"}
        async with client.http.post(f"{client.url}/v1/runs", json=run) as answer:
            assert answer.status == 201, await answer.text()
        await peers.all_received(number + 1)
    return statistics.median((at - peers.shown[run]) * 1000 for run, at in peers.arrived.items())


async def main(sizes: Sequence[int], endpoints: Sequence[int]) -> None:
    """Print a line for each size, and how many times the smallest's cost the largest's is."""
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
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--runs",
        type=int,
        nargs="+",
        default=[1_000, 100_000],
        help="ascending; 1000 10000 100000 1000000 takes minutes",
    )
    arguments.add_argument("--endpoints", type=int, nargs="+", default=[1, 100], help="ascending")
    given = arguments.parse_args()
    asyncio.run(main(given.runs, given.endpoints))
