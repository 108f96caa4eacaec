"""Events end to end: poll → transition → commit → signed POST → attempt, durable (synchronous=FULL) on SQLite.

The daemon runs in its own process; provider and receiver are minimal servers in this one. Runs have finished when
they are registered, so each costs one poll, one event and one delivery. Measured: runs per second from the first
registration to the last webhook, and CPU of the daemon per event. The baseline is a bare aiohttp client loop in this
process, one GET and one POST per run.

The second measurement leaves out registration: the runs are in the database, and a reload adds their connection.
From the reload on, the daemon does what benchmarks/pipeline.py does in a process of its own with the same servers.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from pathlib import Path

import aiohttp

from benchmarks.harness import Peers, Spent, add_to_config, connection, daemon, endpoint, insert_runs, read_usage
from benchmarks.pipeline import measure_raw


async def bare(url: str, count: int, concurrency: int) -> tuple[float, float]:
    """(Pairs of requests per second, CPU seconds) of a bare client loop; the CPU includes the servers."""
    todo = iter(range(count))
    body = b'{"type":"run.finished"}' * 40
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def worker() -> None:
            for number in todo:
                async with http.get(f"{url}/dibby/runs/{number}") as answer:
                    await answer.read()
                async with http.post(f"{url}/hooks", data=body) as answer:
                    await answer.read()

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count / (time.monotonic() - started), cpu_s


async def bridge(url: str, peers: Peers, count: int, database: str | None = None) -> tuple[float, float, float]:
    """(Registrations per second, events per second, CPU seconds of the daemon per event)."""
    with tempfile.TemporaryDirectory() as folder:
        async with daemon(Path(folder), connection(url) + endpoint(url), database=database) as client:
            before, started = read_usage(client.pid), time.monotonic()
            for start in range(0, count, 1000):
                runs = [{"connection": "dibby", "provider_run_id": f"r{n}"} for n in range(start, start + 1000)]
                async with client.http.post(f"{client.url}/v1/runs/batch", json={"runs": runs}) as answer:
                    assert answer.status == 200, await answer.text()
            registered_s = time.monotonic() - started
            await peers.all_received(count)
            wall_s = time.monotonic() - started
            await asyncio.sleep(1)
            after = read_usage(client.pid)
    return count / registered_s, count / wall_s, (after.cpu_s - before.cpu_s) / count


async def work_off(url: str, peers: Peers, count: int, database: str | None = None) -> tuple[Spent, float]:
    """The cost of runs that are in the database already, from the reload on, and the file's bytes per run."""
    with tempfile.TemporaryDirectory() as folder:
        where = database or f"sqlite:///{folder}/runbridge.db"
        await insert_runs(where, 0)
        file = Path(folder) / "runbridge.db"
        empty = file.stat().st_size if database is None else 0
        await insert_runs(where, count)
        async with daemon(Path(folder), endpoint(url), database=where) as client:
            before = read_usage(client.pid)
            add_to_config(client, Path(folder), connection(url))
            await peers.all_received(count)
            wall_s = time.monotonic() - before.at
            await asyncio.sleep(1)
            spent = Spent(count, wall_s, read_usage(client.pid).cpu_s - before.cpu_s)
        return spent, ((file.stat().st_size - empty) / count if database is None else 0.0)


async def main() -> None:
    """Print the figures and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5000, help="a multiple of 1000")
    parser.add_argument("--database", help="a PostgreSQL URL instead of a SQLite file")
    arguments = parser.parse_args()
    count, peers = arguments.events, Peers()
    async with peers.serve() as url:
        bare_s, bare_cpu_s = await bare(url, count, 50)
        peers.received = 0
        registered, events, cpu_s = await bridge(url, peers, count, arguments.database)
        peers.received = 0
        raw = await measure_raw("events", url, count)
        peers.received = 0
        ours, stored = await work_off(url, peers, count, arguments.database)
    print(
        f"bare GET + POST loop, client and servers in one process: {bare_s:8.0f}/s  {bare_cpu_s / count * 1e6:6.0f} us CPU each"
    )
    print(f"registered in batches of 1000:                           {registered:8.0f}/s")
    print(f"events end to end, daemon:                               {events:8.0f}/s  {cpu_s * 1e6:6.0f} us CPU each")
    print(
        f"the same without registering:                            {ours.per_s:8.0f}/s  {ours.cpu_us:6.0f} us CPU each"
    )
    print(f"raw pipeline (benchmarks/pipeline.py):                   {raw.per_s:8.0f}/s  {raw.cpu_us:6.0f} us CPU each")
    if stored:
        print(f"database, everything included:                           {stored:8.0f} bytes per finished run")
    print(f"events ÷ bare loop: {events / bare_s:.2f}")
    print(
        f"events without registering ÷ raw pipeline: {ours.per_s / raw.per_s:.2f} in items/s, "
        f"{raw.cpu_us / ours.cpu_us:.2f} in CPU per item (raw ÷ ours)"
    )


if __name__ == "__main__":
    asyncio.run(main())
