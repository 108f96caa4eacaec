"""After an outage: many overdue polls at once. Does the API answer meanwhile, and is the memory given back?

All runs are an hour overdue in the database, and a reload gives the daemon their connection. The provider shows each
to be running now, so every poll is a transition with an event, committed; then it is not due for ten minutes. From the
reload until every run was looked at (or the time is up) `GET /v1/runs/{id}` and `GET /healthz` are asked in turn, a
tenth of a second after the last answer; the WAL file and the daemon's memory (RSS) are looked at as often.
Client and provider share this process, whose own waits are within the API's times.
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

from benchmarks.idle import read
from benchmarks.latency import percentile
from benchmarks.polls import IN_FLIGHT, StillRunning
from benchmarks.prefill import insert_runs
from benchmarks.process import Daemon, add_to_config, daemon
from bridge.domain.clock import SystemClock

EVERY_S = 0.1
CALM_S = 5.0  # after the storm, before memory is read again


@dataclass
class Seen:
    """Milliseconds of the answers, and the largest sizes, while the storm lasts."""

    run_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    wal: int = 0
    rss: int = 0


def config(url: str) -> str:
    return (
        f'[connections.dibby]\nprovider = "dibby"\nbase_url = "{url}/dibby"\napi_key = "k"\n'
        f"requests_per_second = 1000000\nmax_in_flight = {IN_FLIGHT}\n"
        'min_interval = "10m"\nmax_interval = "10m"\n'
    )


async def ask(client: Daemon, path: str, waits: list[float]) -> None:
    began_s = time.monotonic()
    async with client.http.get(f"{client.url}{path}") as answer:
        await answer.read()
        assert answer.status == 200, path
    waits.append((time.monotonic() - began_s) * 1000)


async def look(client: Daemon, folder: Path, run_ids: list[str], seen: Seen) -> None:
    """Ask and measure until cancelled."""
    wal = folder / "runbridge.db-wal"
    while True:
        await ask(client, f"/v1/runs/{random.choice(run_ids)}", seen.run_ms)
        await ask(client, "/healthz", seen.health_ms)
        seen.wal = max(seen.wal, wal.stat().st_size if wal.exists() else 0)
        seen.rss = max(seen.rss, read(client.pid).rss)
        await asyncio.sleep(EVERY_S)


async def some_ids(client: Daemon) -> list[str]:
    async with client.http.get(f"{client.url}/v1/runs?limit=100") as answer:
        return [run["id"] for run in (await answer.json())["data"]]


async def main(runs: int, seconds: float) -> None:
    """Print what was seen."""
    peers, seen = StillRunning(runs), Seen()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        an_hour_ago = SystemClock().now() - timedelta(hours=1)
        await insert_runs(f"sqlite:///{folder}/runbridge.db", runs, due_at=an_hour_ago)
        async with peers.serve() as url, daemon(folder, "", database=f"sqlite:///{folder}/runbridge.db") as client:
            run_ids = await some_ids(client)
            before = read(client.pid)
            add_to_config(client, folder, config(url))
            looking = asyncio.create_task(look(client, folder, run_ids, seen))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(peers.warm.wait(), seconds)
            polled, storm_s = peers.polled, time.monotonic() - before.at
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking
            await asyncio.sleep(CALM_S)
            after = read(client.pid)
    print(f"{runs} overdue runs, {polled} polled in {storm_s:.1f} s: {polled / storm_s:.0f}/s")
    for what, waits in (("GET /v1/runs/{id}", seen.run_ms), ("GET /healthz", seen.health_ms)):
        figures = "  ".join(f"p{percent} {percentile(waits, percent):6.1f} ms" for percent in (50, 95, 99))
        print(f"{what:18} {figures}  worst {max(waits):6.1f} ms  of {len(waits)}")
    print(f"WAL file at most {seen.wal / 1e6:.1f} MB")
    print(
        f"memory {before.rss / 1e6:.1f} MB before, at most {seen.rss / 1e6:.1f} MB, "
        f"{after.rss / 1e6:.1f} MB {CALM_S:g} s after{'' if polled == runs else ' (not over yet)'}"
    )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=20_000)
    arguments.add_argument("--seconds", type=float, default=40.0, help="at most")
    given = arguments.parse_args()
    asyncio.run(main(given.runs, given.seconds))
