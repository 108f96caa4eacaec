"""After an outage: many overdue polls at once. Measures API latency, memory and WAL size while they are made.

All runs are an hour overdue in the database, and a reload adds their connection. The provider shows each run as
running, so every poll commits a transition with an event; the run is then not due for ten minutes. From the reload
until every run has been polled (or the time is up), `GET /v1/runs/{id}` and `GET /healthz` are sent in turn, with a
pause of a tenth of a second; the WAL file and the memory (RSS) of the daemon are read as often. Client and provider
share this process, so its delays are included in the API's times.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from benchmarks.harness import RunningDaemon, add_to_config, daemon, insert_runs, percentile, read_usage
from benchmarks.polls import IN_FLIGHT, StillRunning
from bridge.domain.clock import SystemClock

EVERY_S = 0.1
CALM_S = 5.0  # after the storm, before memory is read again


@dataclass
class StormFigures:
    """Response times in milliseconds, the largest WAL and memory in bytes, and the memory before and after."""

    run_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    polled: int = 0
    storm_s: float = 0.0
    wal: int = 0
    rest: int = 0
    rss: int = 0
    after: int = 0


def config(url: str) -> str:
    return (
        f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{url}/dibby"\napi_key = "k"\n'
        f"requests_per_second = 1000000\nmax_in_flight = {IN_FLIGHT}\n"
        'min_interval = "10m"\nmax_interval = "10m"\n'
    )


async def get(client: RunningDaemon, path: str, waits: list[float]) -> None:
    started_s = time.monotonic()
    async with client.http.get(f"{client.url}{path}") as answer:
        await answer.read()
        assert answer.status == 200, path
    waits.append((time.monotonic() - started_s) * 1000)


async def sample(client: RunningDaemon, folder: Path, run_ids: list[str], figures: StormFigures) -> None:
    """Send requests and read sizes until cancelled."""
    wal = folder / "runbridge.db-wal"
    while True:
        await get(client, f"/v1/runs/{random.choice(run_ids)}", figures.run_ms)
        await get(client, "/healthz", figures.health_ms)
        figures.wal = max(figures.wal, wal.stat().st_size if wal.exists() else 0)
        figures.rss = max(figures.rss, read_usage(client.pid).rss)
        await asyncio.sleep(EVERY_S)


async def some_ids(client: RunningDaemon) -> list[str]:
    async with client.http.get(f"{client.url}/v1/runs?limit=100") as answer:
        return [run["id"] for run in (await answer.json())["data"]]


async def measure(runs: int, seconds: float) -> StormFigures:
    """Make a storm of `runs` overdue runs that lasts `seconds` at most."""
    peers, figures = StillRunning(runs), StormFigures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        an_hour_ago = SystemClock().now() - timedelta(hours=1)
        await insert_runs(f"sqlite:///{folder}/runbridge.db", runs, due_at=an_hour_ago)
        async with peers.serve() as url, daemon(folder, "", database=f"sqlite:///{folder}/runbridge.db") as client:
            run_ids = await some_ids(client)
            before = read_usage(client.pid)
            figures.rest = before.rss
            add_to_config(client, folder, config(url))
            sampling = asyncio.create_task(sample(client, folder, run_ids, figures))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(peers.warm.wait(), seconds)
            figures.polled, figures.storm_s = peers.polled, time.monotonic() - before.at
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling
            await asyncio.sleep(CALM_S)
            figures.after = read_usage(client.pid).rss
    return figures


async def main(runs: int, seconds: float) -> None:
    """Print the figures."""
    figures = await measure(runs, seconds)
    polled, storm_s = figures.polled, figures.storm_s
    print(f"{runs} overdue runs, {polled} polled in {storm_s:.1f} s: {polled / storm_s:.0f}/s")
    for what, waits in (("GET /v1/runs/{id}", figures.run_ms), ("GET /healthz", figures.health_ms)):
        percentiles = "  ".join(f"p{percent} {percentile(waits, percent):6.1f} ms" for percent in (50, 95, 99))
        print(f"{what:18} {percentiles}  worst {max(waits):6.1f} ms  of {len(waits)}")
    print(f"WAL file at most {figures.wal / 1e6:.1f} MB")
    print(
        f"memory {figures.rest / 1e6:.1f} MB before, at most {figures.rss / 1e6:.1f} MB, "
        f"{figures.after / 1e6:.1f} MB {CALM_S:g} s after{'' if polled == runs else ' (not over yet)'}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=40.0, help="at most")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.runs, arguments.seconds))
